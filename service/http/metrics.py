"""Prometheus metrics: counted by every worker process in files that all of them share, and read by any of them.

The files' directory is in PROMETHEUS_MULTIPROC_DIR, which must be set before this module is imported. A worker's files
have its number, PROMETHEUS_PROCESS, in their names: one that is started again goes on with the files of the one before.
"""

import os
from collections.abc import Iterator, Sequence

import prometheus_client
import prometheus_client.values
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from retrieval import VERSION
from retrieval.search.ranking import SIDES
from service.engines.base import DeltaInfo, IndexInfo
from service.recommender import Outcome, Recommender

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0)
_RELOAD_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0)
_USERS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_SHARE_BUCKETS = (0.0, 0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
_MAX_SCORES_PER_REQUEST = 10
_SCORE_BUCKETS = tuple(round(0.05 * step, 2) for step in range(-4, 21))

if _process := os.environ.get("PROMETHEUS_PROCESS"):
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(lambda: _process)  # type: ignore[no-untyped-call]
_registry = CollectorRegistry()  # Only takes the metrics in; `exposition` reads their values from the files.

REQUESTS = Counter("reco_requests", "Requests answered.", ["route", "status"], registry=_registry)
SECONDS = Histogram(
    "reco_request_seconds",
    "Time from the arrival of a whole request until its answer is sent.",
    ["route"],
    buckets=_SECONDS_BUCKETS,
    registry=_registry,
)
BATCH_USERS = Histogram("reco_batch_users", "Users in a batch.", buckets=_USERS_BUCKETS, registry=_registry)
FAILED_USERS = Counter("reco_failed_users", "Users of batches that got an error.", ["code"], registry=_registry)
BEST_SCORE = Histogram("reco_best_score", "Score of a user's best match.", buckets=_SCORE_BUCKETS, registry=_registry)
BEST_SCORE_RANK = Summary(
    "reco_best_score_rank",
    "Share of the builder's users whose best score is lower than a user's who leaves out no product, 0.5 on average.",
    registry=_registry,
)
LIVE_RECALL = Summary(
    "reco_live_recall", "Recall of users who were answered again by an exact scan.", ["side"], registry=_registry
)
LIVE_RECALL_SQUARES = Counter(
    "reco_live_recall_squares", "Sum of the squares of these recalls, for their variance.", ["side"], registry=_registry
)
FILTERED = Counter("reco_filtered_requests", "Requests with a filter.", registry=_registry)
MATCHED_SHARE = Histogram(
    "reco_matched_share",
    "Share of the products which may be shown that a filter lets through.",
    buckets=_SHARE_BUCKETS,
    registry=_registry,
)
MASKS = Counter("reco_masks", "Uses of filters' masks, compiled for the use or cached.", ["source"], registry=_registry)
SHED = Counter("reco_shed_requests", "Requests refused because too many were waiting.", registry=_registry)
SLOW_CLIENTS = Counter(
    "reco_slow_clients", "Connections closed because their clients sent or took too little.", registry=_registry
)
IN_FLIGHT = Gauge(
    "reco_in_flight_requests", "Requests running or waiting.", multiprocess_mode="livesum", registry=_registry
)
QUEUED = Gauge("reco_queued_requests", "Requests waiting.", multiprocess_mode="livesum", registry=_registry)
RELOAD_SECONDS = Histogram(
    "reco_reload_seconds",
    "Time from the publishing of a build until all workers served it; rollbacks are left out.",
    buckets=_RELOAD_BUCKETS,
    registry=_registry,
)
RELOADS = Counter("reco_reloads", "Builds that replaced another while serving.", registry=_registry)
FAILED_RELOADS = Counter("reco_failed_reloads", "Builds that were refused while serving.", registry=_registry)
WORKER_RESTARTS = Counter("reco_worker_restarts", "Worker processes started again.", registry=_registry)
DROPPED_LOG_LINES = Counter("reco_log_lines_dropped", "Log lines that stderr did not take.", registry=_registry)
_RECALL_BY_SIDE = {side: (LIVE_RECALL.labels(side), LIVE_RECALL_SQUARES.labels(side)) for side in SIDES}
_MASKS_BY_CACHED = {True: MASKS.labels("cached"), False: MASKS.labels("compiled")}
RECORD_EVENT = {
    "reload": RELOADS.inc,
    "reload seconds": RELOAD_SECONDS.observe,
    "failed reload": FAILED_RELOADS.inc,
    "worker restart": WORKER_RESTARTS.inc,
    "dropped log line": DROPPED_LOG_LINES.inc,
}
_NO_DELTA = DeltaInfo("", "", 0, 0, 0, 0, 0, 1)
_CHANGES = ("added", "replaced", "changed", "deleted")


def observe_answers(outcomes: Sequence[Outcome], recommender: Recommender) -> None:
    """Count best scores, and the shares of products that filters let through, of the first users who have them."""
    ranks = recommender.score_ranks
    for score, _, is_restricted in outcomes[:_MAX_SCORES_PER_REQUEST]:
        if score is not None:
            BEST_SCORE.observe(score)
            if ranks and not is_restricted:
                BEST_SCORE_RANK.observe(ranks.rank(score))
    filtered = [outcome.matched for outcome in outcomes if outcome.matched is not None]
    if filtered:
        FILTERED.inc()
    for count in filtered[:_MAX_SCORES_PER_REQUEST]:
        MATCHED_SHARE.observe(count / max(1, recommender.shown_products))


def count_mask(was_cached: bool) -> None:
    """Count a use of a filter's mask."""
    _MASKS_BY_CACHED[was_cached].inc()


def observe_recall(side: str, recall: float) -> None:
    """Count the recall of a user who was answered again."""
    summary, squares = _RECALL_BY_SIDE[side]
    summary.observe(recall)
    squares.inc(recall**2)


class _Index(Collector):
    """The code, and the index in use, as gauges."""

    def __init__(self, info: IndexInfo):
        self._info = info

    def collect(self) -> Iterator[InfoMetricFamily | GaugeMetricFamily]:
        info = self._info
        yield InfoMetricFamily("reco_build", "The code of the service.", {"version": VERSION})
        yield InfoMetricFamily("reco_index", "The build in use.", {"build_id": info.build_id, "kind": info.index})
        yield GaugeMetricFamily("reco_index_products", "Products in the build in use.", info.products)
        recall = GaugeMetricFamily("reco_index_recall", "Recall at 10 as the builder measured it.", labels=["side"])
        for side in SIDES:
            if side in info.recall:
                recall.add_metric([side], info.recall[side][0]["mean"])
        yield recall
        if "target" in info.recall:
            yield GaugeMetricFamily(
                "reco_index_recall_target", "Recall that the builder promised.", info.recall["target"]
            )
        delta = info.delta or _NO_DELTA
        text = "Products that the delta in use changes on its base: added, replaced, changed in fields alone, deleted."
        products = GaugeMetricFamily("reco_delta_products", text, labels=["change"])
        for change in _CHANGES:
            products.add_metric([change], getattr(delta, change))
        yield products
        yield GaugeMetricFamily("reco_delta_bytes", "Size of the delta in use.", delta.bytes)
        yield GaugeMetricFamily(
            "reco_delta_share", "Size of the delta by that of its base.", delta.bytes / delta.base_bytes
        )


def exposition(info: IndexInfo) -> bytes:
    """Return all metrics of all processes, in Prometheus's text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(_Index(info))
    return prometheus_client.generate_latest(registry)
