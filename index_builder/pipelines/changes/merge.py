"""Merges a delta into its base: a new build with the base's codes and settings, without training or tuning."""

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
from numpy.typing import NDArray

from index_builder.catalogue import VECTORS, Catalogue
from index_builder.kinds.training import FLAT, refill
from index_builder.pipelines.build import start_tuning, write_index_files
from index_builder.pipelines.changes.combining.facts import facts_of
from index_builder.pipelines.changes.combining.fields import columns_of, write_fields
from index_builder.pipelines.changes.combining.rows import MergedRows, merge_rows, vectors_of
from index_builder.pipelines.changes.combining.tables import Part, write_table
from index_builder.pipelines.changes.current import CurrentProducts, names_of, open_current_products
from index_builder.tuning.trials import TunedIndex
from index_builder.tuning.tuner import Tuner
from index_builder.tuning.users import user_pool
from retrieval.artifact import sample_users, store
from retrieval.artifact.build import BEST
from retrieval.artifact.fields.writer import FieldReport
from retrieval.artifact.manifest import Manifest
from retrieval.artifact.products import ROW_FILES, open_rows, write_rows
from retrieval.artifact.projection import write_projection
from retrieval.records.vector_file import VectorFile
from retrieval.search.files import open_index
from retrieval.search.index import ProductIndex
from retrieval.search.kinds import FAISS_VERSION


@dataclass(frozen=True)
class MergeRequest:
    """Which current build to merge, and the users to measure its recall with. Of old builds, `keep` stay."""

    out: Path
    queries: Path | None = None
    keep: int = 5


@dataclass(frozen=True)
class Merged:
    """The build that a merge has published, and why it was built anew instead, if it was."""

    manifest: Manifest
    rebuilt_because: str


def merge(request: MergeRequest) -> Merged | None:
    """Publish the products of a base and a delta as one build, or return None where the current build is no delta.

    Updates and other merges wait meanwhile. Where the index misses the recall that its build promises, a new one is
    trained and tuned. Raises a RetrievalError, and leaves the build in use alone, where anything is wrong.
    """
    with store.updating(request.out) as pair:
        if pair.delta is None:
            return None
        with store.draft(request.out) as directory:
            merged = _fill(directory, request, pair)
            manifest = store.publish(request.out, directory, merged.manifest, instead_of=pair.build_id)
            with suppress(OSError):  # The build is published, even where older ones cannot be found or removed.
                store.prune(request.out, request.keep)
            return replace(merged, manifest=manifest)


def _fill(directory: Path, request: MergeRequest, pair: Manifest) -> Merged:
    """Write all files of a build into a directory, and return the facts for its manifest."""
    current = open_current_products(request.out, pair, also_read=(*ROW_FILES, BEST))
    base, base_directory = current.base, request.out / current.base.build_id
    standing = current.table.standing()
    fields = _write_products(directory, current, standing)
    vectors, merged = _write_vectors(directory, current, base_directory, standing)
    groups = merged.groups
    with closing(vectors):
        catalogue = Catalogue(vectors, groups, None, base.dropped_rows, [], fields)
        users = user_pool(vectors, request.queries)
        tuner = start_tuning(directory, catalogue, users, base.index.storage, base.recall.target)
        tuned, reason = _tuned(tuner, base, base_directory / BEST, vectors, merged)
        files = write_index_files(directory, catalogue, tuner, tuned, base.index.worst)
        tuned = files.tuned
        write_projection(directory, vectors, groups)
    (directory / VECTORS).unlink()
    copyfile(base_directory / sample_users.FILE, directory / sample_users.FILE)
    manifest = replace(
        base,
        build_id="",
        created="",
        merged=pair.source,
        products=len(standing),
        distinct_vectors=groups.row_count,
        filterable=fields.filterable,
        index=replace(
            base.index, factory=tuned.factory, search=tuned.settings, filtered=tuned.filtered, uneven=tuned.uneven
        ),
        recall=files.recall,
        quality=files.quality,
        faiss_version=FAISS_VERSION,
        golden_queries=files.golden_queries,
        files={},
    )
    return Merged(manifest, reason)


def _write_products(directory: Path, current: CurrentProducts, standing: NDArray[np.int64]) -> FieldReport:
    """Write the table and the lists of all products, and return what there is to say of their fields."""
    layout, positions = current.layout, np.full(current.layout.count, -1)
    positions[standing] = np.arange(len(standing))
    of_base, of_records = positions[: layout.base_count].copy(), positions[layout.positions]
    of_base[layout.positions[layout.positions < layout.base_count]] = -1
    parts = [Part(current.base_table, current.base_lists, of_base)]
    if current.delta:
        parts.append(Part(current.delta.table, current.delta.lists, of_records))
    write_table(directory, *parts)
    reasons, types = dict(current.vocabulary.reasons), current.types
    columns = columns_of(types, parts, reasons)
    names = names_of(current.vocabulary) - (types.keys() - columns.keys() - reasons.keys())
    write_fields(directory, columns, len(standing), names, reasons)
    facts = [facts_of(name, types[name], column, len(standing)) for name, column in columns.items()]
    return FieldReport(facts, reasons)


def _write_vectors(
    directory: Path, current: CurrentProducts, base_directory: Path, standing: NDArray[np.int64]
) -> tuple[VectorFile, MergedRows]:
    """Write the vectors of all products, and the rows that these share."""
    layout, rows = current.layout, open_rows(base_directory, current.base.products)
    base = ProductIndex(open_index(base_directory / BEST), rows.groups, current.base.index.search)
    delta = current.delta.index if current.delta else None
    sources = np.empty(layout.count, np.int64)
    sources[: layout.base_count] = rows.row_of_product
    own = layout.own_vectors
    sources[layout.positions[own]] = base.groups.row_count + layout.row_of_record[own]
    merged = merge_rows(sources[standing], base, delta)
    write_rows(directory, merged.groups)
    vectors = VectorFile(directory / VECTORS)
    for block in vectors_of(merged, base, delta):
        vectors.append(block)
    return vectors, merged


def _tuned(tuner: Tuner, base: Manifest, path: Path, vectors: VectorFile, merged: MergedRows) -> tuple[TunedIndex, str]:
    """Return the index to publish, and why it is another one than the base's with other vectors, if it is."""
    if base.index.factory == FLAT:
        return tuner.choose(FLAT), ""
    tuned = tuner.measured(refill(open_index(path), vectors, tuner.store, merged.sources), base.index)
    if tuned.meets_target or not base.recall.kept:
        return tuned, ""
    missed = f"with the base's codes and settings it misses the recall of {tuner.target}: {tuned.recall_text}"
    return tuner.choose("auto"), missed
