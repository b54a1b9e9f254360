"""Publishes a delta on the current build from a file of changes."""

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index_builder.catalogue import list_faults
from index_builder.pipelines.build import source_of
from index_builder.pipelines.changes.advice import Finding, advise
from index_builder.pipelines.changes.answers import golden_answers
from index_builder.pipelines.changes.combining.facts import pair_facts
from index_builder.pipelines.changes.current import CurrentProducts, open_current_products
from index_builder.pipelines.changes.plan import Plan, plan_records
from index_builder.pipelines.changes.reading import ChangeFile, SetFields
from index_builder.pipelines.changes.records import RecordFields, write_changed, write_records, write_vectors
from index_builder.pipelines.changes.rules import FieldRules
from retrieval.artifact import golden, store
from retrieval.artifact.build import open_build, open_pair
from retrieval.artifact.manifest import DeltaFacts, GoldenQuery, Manifest, file_facts
from retrieval.errors import BadCatalogue
from retrieval.search.filters.facts import FieldFacts
from retrieval.search.pair import left_in_base

_CHANGED = "changed"  # A scratch directory, which is not published, for the table of what the file brings.
_SHARE_OF_BASE = 5  # A delta takes at most this part of the bytes of its base,
_ALWAYS_ALLOWED_BYTES = 2**16  # unless it is so small that this says nothing of the time that a search takes.
_MAX_SHARE_OF_LIMIT = 0.5  # From there on it is time to merge, before an update is refused.


@dataclass(frozen=True)
class UpdateRequest:
    """What to change, and where; `embedding_model` is that of the new vectors, where it is to be checked.

    Of old builds, `keep` stay, this one included.
    """

    update: Path
    out: Path
    embedding_model: str | None = None
    keep: int = 5


@dataclass(frozen=True)
class FileCounts:
    """How many products a file of changes has added, replaced, changed and deleted."""

    added: int
    replaced: int
    changed: int
    deleted: int


@dataclass(frozen=True)
class Updated:
    """What an update has published: the manifest of base and delta, and what the file changed.

    `max_bytes` is the size from which on no delta on this base is published.
    """

    manifest: Manifest
    delta: DeltaFacts
    counts: FileCounts
    max_bytes: int


def update(request: UpdateRequest) -> Updated:
    """Publish a delta on the current build.

    Other updates and merges wait meanwhile. Raises a RetrievalError, and leaves the build in use alone, where anything
    is wrong with a line, with the base, or with the size that the delta would have.
    """
    with store.updating(request.out) as in_use, store.draft(request.out) as directory:
        current = open_current_products(request.out, in_use)
        drafted = _fill(directory, request, current)
        manifest = store.publish(request.out, directory, drafted.manifest, instead_of=in_use.build_id)
        with suppress(OSError):  # The delta is published, even where older builds cannot be found or removed.
            store.prune(request.out, request.keep)
        return replace(drafted, manifest=manifest)


def advise_on(root: Path, updated: Updated) -> list[Finding]:
    """Return whether it is time to merge a delta that has been published. Raises BadArtifact where it is gone."""
    manifest = updated.manifest
    build = store.open_pinned(root, manifest.build_id, verified=True, manifest=manifest)
    findings = advise(build, updated.delta)
    size = manifest.size_bytes
    text = f"the delta has {size / 1e3:,.1f} kB of the {updated.max_bytes / 1e3:,.1f} kB that it may have"
    return [*findings, Finding(text, size > _MAX_SHARE_OF_LIMIT * updated.max_bytes)]


def _fill(directory: Path, request: UpdateRequest, current: CurrentProducts) -> Updated:
    """Write all files of a delta into a directory, and return the facts for its manifest, and of the file."""
    base, path = current.base, request.update
    if request.embedding_model not in (None, base.embedding_model):
        raise BadCatalogue(
            f"--embedding-model {request.embedding_model}: the vectors of the base {base.build_id} are of "
            f"{base.embedding_model or 'a model without a label'}"
        )
    file = ChangeFile(path, base.dimension)
    if not file.locations:
        raise BadCatalogue(f"{path}: holds no changes")
    plan = plan_records(file, current)
    fields = _write_fields(directory, file, plan, current)
    deleted, added = len(plan.deleted), int(np.count_nonzero(plan.positions >= base.products))
    if base.products + added == deleted:
        raise BadCatalogue(f"{path}: leaves no product")
    vectors = write_vectors(directory, plan, current)
    max_bytes = _check_size(directory, base, request.out)
    replaced = plan.positions[vectors.groups.products]
    replaced = replaced[replaced < base.products]
    changed = len(plan.positions) - added - len(replaced)
    delta = DeltaFacts(base.build_id, base.checksum, added, len(replaced), changed, deleted)
    manifest = replace(
        base,
        build_id="",
        created="",
        source=source_of(path),
        merged=None,
        products=base.products + added - deleted,
        distinct_vectors=base.distinct_vectors + vectors.groups.row_count,
        filterable=_facts(current, plan, fields),
        golden_queries=golden_answers(current, np.concatenate((replaced, plan.deleted)), vectors),
        delta=delta,
        files={},
    )
    if not manifest.golden_queries:
        manifest = replace(manifest, golden_queries=_searched_answers(directory, manifest, request.out, base))
    return Updated(manifest, delta, _counts(file, plan), max_bytes)


def _searched_answers(directory: Path, manifest: Manifest, root: Path, base: Manifest) -> list[GoldenQuery]:
    """Return the golden queries of a pair by opening it, which takes longer."""
    files = {path.name: file_facts(path) for path in directory.iterdir()}
    whole = open_build(root, base.build_id, verified=True)
    pair = open_pair(directory, replace(manifest, files=files), whole)
    users = np.array([query.vector for query in base.golden_queries], np.float32)
    return golden.record(pair.index.search, pair.products.prefixes, users)


def _counts(file: ChangeFile, plan: Plan) -> FileCounts:
    are_sets = np.array([isinstance(change, SetFields) for _, change in plan.changes], np.bool_)
    added = int(np.count_nonzero(plan.changed < 0))
    changed, deleted = int(np.count_nonzero(are_sets)), len(file.changes) - len(plan.changes)
    return FileCounts(added, len(plan.changes) - added - changed, changed, deleted)


def _write_fields(directory: Path, file: ChangeFile, plan: Plan, current: CurrentProducts) -> RecordFields:
    """Write the table and the lists of a delta's records. Raises BadCatalogue naming each line at fault."""
    rules = FieldRules(
        current.types, current.vocabulary.reasons, current.postings, current.path_of, current.chosen_fields
    )
    scratch = directory / _CHANGED
    scratch.mkdir()
    report = write_changed(scratch, file, plan, current, rules)
    if file.faults:
        raise BadCatalogue(list_faults(file.path, file.listed_faults()))
    fields = write_records(directory, scratch, report, plan, current, rules)
    shutil.rmtree(scratch)
    return fields


def _check_size(directory: Path, base: Manifest, root: Path) -> int:
    """Return the size that a delta may have. Raises BadCatalogue where it has more."""
    size = sum(path.stat().st_size for path in directory.iterdir())
    limit = max(base.size_bytes // _SHARE_OF_BASE, _ALWAYS_ALLOWED_BYTES)
    if size > limit:
        raise BadCatalogue(
            f"{root}: with these changes the delta takes {size / 1e6:.1f} MB, more than {limit / 1e6:.1f} MB, a fifth "
            f"of its base; merge first: python -m index_builder --merge --out {root}"
        )
    return limit


def _facts(current: CurrentProducts, plan: Plan, fields: RecordFields) -> list[FieldFacts]:
    """Return the facts of all fields that can be filtered by, of the base's products that stand and the records."""
    stand = left_in_base(current.base.products, plan.positions, plan.deleted)
    lists, count = current.base_lists.postings, len(plan.positions)
    return [
        pair_facts(name, field_type, lists.get(name), stand, fields.columns.get(name), count)
        for name, field_type in fields.types.items()
    ]
