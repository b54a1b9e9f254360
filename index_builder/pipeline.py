"""The pipeline: read, normalise, plan, build, measure, publish."""

import hashlib
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from index_builder.catalogue import VECTORS, read_catalogue
from index_builder.recall import synthetic_users
from index_builder.report import write_report
from index_builder.training import check_negates, negate, store_vectors
from index_builder.tuning import Plan, Planner
from index_builder.users import user_pool
from retrieval.artifact import golden, store
from retrieval.artifact.products import open_products
from retrieval.artifact.projection import write_atlas
from retrieval.artifact.sample_users import write_sample_users
from retrieval.errors import LowRecall
from retrieval.search.index import FAISS_VERSION, write_index
from retrieval.search.ranking import SIDES

_GOLDEN_QUERIES, _GOLDEN_SEED = 8, 2


@dataclass(frozen=True)
class BuildRequest:
    """What to build from, and where to. `recall` is the share of the ten best, and of the ten worst, products that an
    index must find; `index` is "auto" or a kind (`training.py`), `storage` "fp32" or "fp16", `worst` "negated" or
    "shared", `on_bad_row` "fail" or "drop"; of old builds, `keep` stay, this one included.
    """

    products: Path
    out: Path
    queries: Path | None = None
    recall: float = 0.99
    index: str = "auto"
    storage: str = "fp32"
    worst: str = "negated"
    on_bad_row: str = "fail"
    allow_low_recall: bool = False
    embedding_model: str | None = None
    keep: int = 5


def build(request: BuildRequest) -> dict[str, Any]:
    """Build, publish and return the manifest. Raises an IndexBuilderError, and leaves the build in use alone, where
    anything is wrong.
    """
    with ExitStack() as stack:
        draft = stack.enter_context(store.draft(request.out))
        catalogue = read_catalogue(request.products, draft.directory, request.on_bad_row)
        vectors, groups = stack.enter_context(closing(catalogue.vectors)), catalogue.groups
        if request.worst == "negated" and request.index != "auto":
            check_negates(request.index, vectors.dimension)
        users = user_pool(vectors, request.queries)
        golden_users = synthetic_users(vectors, _GOLDEN_QUERIES, _GOLDEN_SEED)
        planner = Planner(vectors, store_vectors(vectors, request.storage), groups, users, request.recall)
        plan = planner.choose(request.index)
        _check_promise(plan, request)

        index_facts = {
            "factory": plan.factory,
            "storage": request.storage,
            "worst": request.worst,
            "search": {side: asdict(plan.settings[side]) for side in SIDES},
        }
        recall_facts = {
            "target": request.recall,
            "kept": plan.keeps_promise,
            "users_from": users.source,
            **{side: [asdict(measured) for measured in plan.recall[side]] for side in SIDES},
        }
        write_report(draft.directory, catalogue, plan, recall_facts, planner.sample_answers(plan))
        write_atlas(draft.directory, vectors, groups)
        write_sample_users(draft.directory, request.queries)
        products = open_products(draft.directory)
        golden_queries = golden.record(planner.served(plan), products, golden_users)
        write_index(plan.index, draft.directory / store.BEST)
        if request.worst == "negated":
            negate(plan.index)
            write_index(plan.index, draft.directory / store.WORST)
        (draft.directory / VECTORS).unlink()
        manifest = draft.publish(
            {
                "source": {"file": request.products.name, "sha256": _sha256(request.products)},
                "products": len(catalogue),
                "distinct_vectors": groups.row_count,
                "dimension": vectors.dimension,
                "dropped_rows": catalogue.dropped_rows,
                "metric": "cosine",
                "embedding_model": request.embedding_model,
                "index": index_facts,
                "recall": recall_facts,
                "faiss_version": FAISS_VERSION,
                "golden_queries": golden_queries,
            }
        )
        with suppress(OSError):  # what has been published is, even where older builds cannot be found or removed
            store.prune(request.out, request.keep)
        return manifest


def _check_promise(plan: Plan, request: BuildRequest) -> None:
    if plan.keeps_promise or request.allow_low_recall:
        return
    found = ", ".join(
        f"{side} {plan.recall[side][0].mean:.4f} (at least {plan.recall[side][0].lower_bound:.4f})" for side in SIDES
    )
    raise LowRecall(
        f"--index {request.index} misses the recall of {request.recall} asked for: {found} with 95 % confidence;"
        " choose another index, lower --recall, or publish it anyway with --allow-low-recall"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
