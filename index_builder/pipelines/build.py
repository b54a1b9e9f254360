"""The pipeline: read, normalise, tune, build, measure, publish."""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

import faiss

from index_builder.catalogue import VECTORS, Catalogue, read_catalogue
from index_builder.kinds.negation import negate
from index_builder.kinds.training import FLAT, check_negates, store_vectors
from index_builder.report.facts import report_facts
from index_builder.report.files import write_report
from index_builder.tuning.quality import measure_quality
from index_builder.tuning.recall import K
from index_builder.tuning.trials import TunedIndex
from index_builder.tuning.tuner import Tuner
from index_builder.tuning.users import UserPool, synthetic_users, user_pool
from retrieval.artifact import golden, store
from retrieval.artifact.build import BEST, WORST
from retrieval.artifact.manifest import GoldenQuery, IndexFacts, Manifest, Recall, Source, file_facts
from retrieval.artifact.products import open_products
from retrieval.artifact.projection import write_projection
from retrieval.artifact.quality import Quality
from retrieval.artifact.sample_users import write_sample_users
from retrieval.errors import BadLabel, LowRecall
from retrieval.records.console import readable
from retrieval.records.rows import part_files
from retrieval.search.files import open_index, read_index, write_index
from retrieval.search.kinds import FAISS_VERSION, candidate_index

_GOLDEN_QUERIES, _GOLDEN_SEED = 8, 2
_SCRATCH = "scratch.faiss"
_MAX_LABEL_CHARACTERS = 200


@dataclass(frozen=True)
class BuildRequest:
    """What to build from, and where to.

    `recall` is the share that an index must find of the ten, and of the hundred, best and worst products; `index` is
    "auto" or a kind (`kinds/`); `filterable` are the fields to filter by, None for all that can be; `columns` are what
    the file calls ids, names and vectors, by "id", "name" and "vector"; of old builds, `keep` stay, this one included.
    `embedding_model` labels the model that made the vectors of products and users: the service answers it in a header,
    so it is of printable ASCII.
    """

    products: Path
    out: Path
    queries: Path | None = None
    recall: float = 0.99
    index: str = "auto"
    storage: Literal["fp32", "fp16"] = "fp32"
    worst: Literal["negated", "shared"] = "negated"
    on_bad_row: Literal["fail", "drop"] = "fail"
    allow_low_recall: bool = False
    embedding_model: str | None = None
    filterable: tuple[str, ...] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: int = 5


def build(request: BuildRequest) -> Manifest:
    """Build, publish and return the manifest.

    Raises a RetrievalError, and leaves the build in use alone, where anything is wrong.
    """
    _check_label(request.embedding_model)
    with store.draft(request.out) as directory:
        manifest = store.publish(request.out, directory, _fill(directory, request))
        with suppress(OSError):  # The build is published, even where older ones cannot be found or removed.
            store.prune(request.out, request.keep)
        return manifest


def _fill(directory: Path, request: BuildRequest) -> Manifest:
    """Write all files of a build into a directory, and return the facts for its manifest."""
    catalogue = read_catalogue(request.products, directory, request.on_bad_row, request.filterable, request.columns)
    with closing(catalogue.vectors) as vectors:
        if request.worst == "negated" and request.index != "auto":
            check_negates(request.index, vectors.dimension)
        users = user_pool(vectors, request.queries)
        tuner = start_tuning(directory, catalogue, users, request.storage, request.recall)
        tuned = tuner.choose(request.index)
        _check_recall(tuned, request)
        files = write_index_files(directory, catalogue, tuner, tuned, request.worst)
        tuned = files.tuned
        write_projection(directory, vectors, catalogue.groups)
        write_sample_users(directory, request.queries)
    (directory / VECTORS).unlink()
    return Manifest(
        source=source_of(request.products),
        products=len(catalogue),
        distinct_vectors=vectors.rows,
        dimension=vectors.dimension,
        dropped_rows=catalogue.dropped_rows,
        embedding_model=request.embedding_model,
        filterable=catalogue.fields.filterable,
        chosen_fields=None if request.filterable is None else [*request.filterable],
        index=IndexFacts(tuned.factory, request.storage, request.worst, tuned.settings, tuned.filtered, tuned.uneven),
        recall=files.recall,
        quality=files.quality,
        faiss_version=FAISS_VERSION,
        golden_queries=files.golden_queries,
    )


@dataclass(frozen=True)
class IndexFiles:
    """An index that was written, with its settings under filters, and what was measured of it."""

    tuned: TunedIndex
    recall: Recall
    quality: Quality
    golden_queries: list[GoldenQuery]


def start_tuning(directory: Path, catalogue: Catalogue, users: UserPool, storage: str, target: float) -> Tuner:
    """Write the catalogue's vectors as an index of their own, and return what finds an index over them."""
    write_index(store_vectors(catalogue.vectors, storage), directory / BEST)
    exact = open_index(directory / BEST)
    return Tuner(catalogue.vectors, exact, catalogue.groups, users, target, directory / _SCRATCH)


def write_index_files(directory: Path, catalogue: Catalogue, tuner: Tuner, tuned: TunedIndex, worst: str) -> IndexFiles:
    """Write the index that was chosen, and the report of its recall and of the lists that it gives."""
    golden_users = synthetic_users(catalogue.vectors, _GOLDEN_QUERIES, _GOLDEN_SEED)
    tuned, filtered = tuner.under_filters(tuned) if catalogue.fields.filterable else (tuned, [])
    recall = Recall(tuner.target, tuned.meets_target, tuned.users_from, **tuned.recall, filtered=filtered)
    index = tuner.product_index(tuned)
    prefixes = open_products(directory).prefixes
    report = measure_quality(index, catalogue.groups, catalogue.vectors, tuner.pool, K, prefixes)
    write_report(directory, report_facts(catalogue, tuned, tuner.dropped, recall, report))
    golden_queries = golden.record(index.search, prefixes, golden_users)
    write_index(tuned.index, directory / _SCRATCH)  # The file of the vectors is mapped, and read from here.
    (directory / _SCRATCH).replace(directory / BEST)
    if worst == "negated":
        _write_negated(tuned.index, directory / WORST)
    return IndexFiles(tuned, recall, report.quality, golden_queries)


def source_of(path: Path) -> Source:
    """Return the name of a file and its hash; of a directory, the hash of those of its parts."""
    hashes = [file_facts(part).sha256 for part in (part_files(path) if path.is_dir() else [path])]
    return Source(readable(path.name), hashes[0] if path.is_file() else sha256("".join(hashes).encode()).hexdigest())


def _write_negated(index: faiss.Index, path: Path) -> None:
    """Write the index of the negated vectors, without those that it would only re-rank by: they are in BEST."""
    write_index(candidate_index(index), path)
    negated = read_index(path)
    negate(negated)
    write_index(negated, path)


def _check_label(label: str | None) -> None:
    """Raise BadLabel unless a header can carry the label, which takes no spaces from around it."""
    if label is None:
        return
    if not (label.isascii() and label.isprintable() and label == label.strip() and label):
        raise BadLabel(
            f"--embedding-model {label!r}: must be of printable ASCII characters, without spaces around them"
        )
    if len(label) > _MAX_LABEL_CHARACTERS:
        raise BadLabel(f"--embedding-model: has {len(label)} characters, at most {_MAX_LABEL_CHARACTERS} are allowed")


def _check_recall(tuned: TunedIndex, request: BuildRequest) -> None:
    if tuned.meets_target or request.allow_low_recall:
        return
    # Nothing but its precision makes an exact scan miss.
    instead = "leave out --storage fp16" if tuned.factory == FLAT else "choose another index"
    raise LowRecall(
        f"--index {request.index} misses the recall of {request.recall} asked for: {tuned.recall_text} with"
        f" 95 % confidence, measured on {tuned.users_from}; {instead}, lower --recall, or publish it anyway with"
        " --allow-low-recall"
    )
