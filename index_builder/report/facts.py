"""What a build has measured: `recall.json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index_builder.catalogue import Catalogue
from index_builder.tuning.quality import QualityReport
from index_builder.tuning.trials import TunedIndex
from retrieval.artifact.manifest import Recall
from retrieval.search.ranking import SIDES

_QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)
_BINS = 40


def report_facts(
    catalogue: Catalogue,
    tuned: TunedIndex,
    dropped: Mapping[str, str],
    recall: Recall,
    report: QualityReport,
) -> dict[str, Any]:
    """Return what was measured, how the scores of some users' answers lie on both sides, and the catalogue's health.

    `dropped` says why kinds of index were.
    """
    sizes, norms = np.diff(catalogue.groups.starts), catalogue.norms
    scores = {side: each.scores.ravel() for side, each in zip(SIDES, report.answers, strict=True)}
    return {
        "recall": recall,
        "index": tuned.factory,
        "chosen": tuned.chosen,
        "measured": tuned.trials,
        "dropped": dict(dropped),
        "scores": {side: quantiles(of_side) for side, of_side in scores.items()},
        "quality": report.quality,
        "hubs": report.hubs,
        "near_pairs": report.near_pairs,
        "lorenz": report.lorenz,
        "catalogue": {
            "products": len(catalogue),
            "dimension": catalogue.vectors.dimension,
            "dropped_rows": catalogue.dropped_rows,
            "row_faults": catalogue.row_faults,
            "groups_of_identical_vectors": int((sizes > 1).sum()),
            "products_in_such_groups": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max()),
            **({} if norms is None else {"norms": quantiles(norms)}),
        },
        "fields": catalogue.fields,
        "histograms": {
            "scores": histogram(scores),
            **({} if norms is None else {"norms_log10": histogram({"products": _logarithms(norms)})}),
        },
    }


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """Return the least and the greatest of values (n,), and those that lie between, by the share of values below."""
    return dict(zip(map("{:.0%}".format, _QUANTILES), np.quantile(values, _QUANTILES).tolist(), strict=True))


def histogram(values: Mapping[str, NDArray[Any]], edges: NDArray[Any] | None = None) -> dict[str, list[float]]:
    """Return the counts of each name's values between shared edges: these, or even ones from the least to the last."""
    if edges is None:
        edges = np.histogram_bin_edges(np.concatenate(list(values.values())), _BINS)
    return {"edges": edges.tolist(), **{name: np.histogram(each, edges)[0].tolist() for name, each in values.items()}}


def _logarithms(norms: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the decimal logarithms of lengths, of which those of huge vectors are beyond all numbers."""
    return np.log10(np.minimum(norms, np.finfo(np.float64).max))
