"""The pipeline: read, normalise, plan, build, measure, publish."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from index_builder import artifact, golden
from index_builder.catalogue import Catalogue, read_catalogue
from index_builder.index import build_index, group_identical, negated, write_index
from index_builder.plan import plan_index
from index_builder.products import write_products
from index_builder.recall import measure_recall, synthetic_users
from index_builder.users import read_users

_RECALL_K, _RECALL_USERS, _RECALL_SEED = 10, 500, 1
_GOLDEN_QUERIES, _GOLDEN_SEED = 8, 2


@dataclass(frozen=True)
class BuildRequest:
    """What to build from, and where to; `on_bad_row` is "fail" or "drop", `index` "auto" or a FAISS factory string."""

    products: Path
    out: Path
    queries: Path | None = None
    index: str = "auto"
    on_bad_row: str = "fail"
    embedding_model: str | None = None


def build(request: BuildRequest) -> dict[str, Any]:
    """Build, publish and return the manifest. Raises an IndexBuilderError, and leaves the build in use alone, where
    anything is wrong."""
    catalogue = read_catalogue(request.products, request.on_bad_row)
    users, users_source = _recall_users(request, catalogue)
    first_products, groups = group_identical(catalogue.unit_vectors)
    plan = plan_index(request.index)
    best = build_index(plan.factory, catalogue.unit_vectors[first_products])

    with artifact.draft(request.out) as draft:
        write_index(best, draft.directory / artifact.BEST)
        write_index(negated(best), draft.directory / artifact.WORST)
        write_products(draft.directory, catalogue.lines, groups)
        index, products = artifact.open_files(draft.directory)
        recall = {
            **asdict(measure_recall(index, catalogue.unit_vectors, users, _RECALL_K)),
            "users_from": users_source,
        }
        (draft.directory / artifact.RECALL_REPORT).write_bytes(orjson.dumps(recall, option=orjson.OPT_INDENT_2))
        golden_users = synthetic_users(catalogue.unit_vectors, _GOLDEN_QUERIES, _GOLDEN_SEED)
        return draft.publish(
            {
                "source": {"file": request.products.name, "sha256": _sha256(request.products)},
                "products": len(catalogue),
                "distinct_vectors": groups.row_count,
                "dimension": catalogue.dimension,
                "dropped_rows": catalogue.dropped_rows,
                "metric": "cosine",
                "embedding_model": request.embedding_model,
                "index": {"factory": plan.factory, "storage": "fp32", "search": {"best": {}, "worst": {}}},
                "recall": recall,
                "faiss_version": faiss.__version__,
                "golden_queries": golden.record(index, products, golden_users),
            }
        )


def _recall_users(request: BuildRequest, catalogue: Catalogue) -> tuple[NDArray[np.float32], str]:
    if request.queries is None:
        return synthetic_users(catalogue.unit_vectors, _RECALL_USERS, _RECALL_SEED), "means of random products"
    return read_users(request.queries, catalogue.dimension), request.queries.name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
