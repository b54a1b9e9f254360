"""Publishes a delta on the current build from a file of changes."""

import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index_builder.catalogue import list_faults
from index_builder.changes.answers import golden_answers
from index_builder.changes.current import CurrentProducts, open_current_products
from index_builder.changes.facts import pair_facts
from index_builder.changes.plan import Plan, plan_records
from index_builder.changes.reading import ChangeFile
from index_builder.changes.records import RecordFields, write_changed, write_records, write_vectors
from index_builder.changes.rules import FieldRules
from retrieval.artifact import store
from retrieval.artifact.manifest import DeltaFacts, Manifest, Source, file_facts
from retrieval.errors import BadCatalogue
from retrieval.records.console import readable
from retrieval.search.filters.facts import FieldFacts

_CHANGED = "changed"  # A scratch directory, which is not published, for the table of what the file brings.
_SHARE_OF_BASE = 5  # A delta takes at most this part of the bytes of its base,
_ALWAYS_ALLOWED_BYTES = 2**16  # unless it is so small that this says nothing of the time that a search takes.


@dataclass(frozen=True)
class UpdateRequest:
    """What to change, and where; `embedding_model` is that of the new vectors, where it is to be checked.

    Of old builds, `keep` stay, this one included.
    """

    update: Path
    out: Path
    embedding_model: str | None = None
    keep: int = 5


def update(request: UpdateRequest) -> Manifest:
    """Publish a delta on the current build, and return the manifest of the two.

    Other updates and merges wait meanwhile. Raises a RetrievalError, and leaves the build in use alone, where anything
    is wrong with a line, with the base, or with the size that the delta would have.
    """
    with store.updating(request.out) as build_id, store.draft(request.out) as directory:
        current = open_current_products(request.out, build_id)
        manifest = store.publish(request.out, directory, _fill(directory, request, current), instead_of=build_id)
        with suppress(OSError):  # The delta is published, even where older builds cannot be found or removed.
            store.prune(request.out, request.keep)
        return manifest


def _fill(directory: Path, request: UpdateRequest, current: CurrentProducts) -> Manifest:
    """Write all files of a delta into a directory, and return the facts for its manifest."""
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
    _check_size(directory, base, request.out)
    replaced = plan.positions[vectors.groups.products]
    replaced = replaced[replaced < base.products]
    changed = len(plan.positions) - added - len(replaced)
    return replace(
        base,
        build_id="",
        created="",
        source=Source(readable(path.name), file_facts(path).sha256),
        products=base.products + added - deleted,
        distinct_vectors=base.distinct_vectors + vectors.groups.row_count,
        filterable=_facts(current, plan, fields),
        golden_queries=golden_answers(current, np.concatenate((replaced, plan.deleted)), vectors),
        delta=DeltaFacts(base.build_id, current.base_checksum, added, len(replaced), changed, deleted),
        files={},
    )


def _write_fields(directory: Path, file: ChangeFile, plan: Plan, current: CurrentProducts) -> RecordFields:
    """Write the table and the lists of a delta's records. Raises BadCatalogue naming each line at fault."""
    rules = FieldRules(
        current.types, current.vocabulary.reasons, current.postings, current.path_of, current.takes_new_fields
    )
    scratch = directory / _CHANGED
    scratch.mkdir()
    report = write_changed(scratch, file, plan, current, rules)
    if file.faults:
        raise BadCatalogue(list_faults(file.path, file.listed_faults()))
    fields = write_records(directory, scratch, report, plan, current, rules)
    shutil.rmtree(scratch)
    return fields


def _check_size(directory: Path, base: Manifest, root: Path) -> None:
    size = sum(path.stat().st_size for path in directory.iterdir())
    limit = max(base.size_bytes // _SHARE_OF_BASE, _ALWAYS_ALLOWED_BYTES)
    if size > limit:
        raise BadCatalogue(
            f"{root}: with these changes the delta takes {size / 1e6:.1f} MB, more than {limit / 1e6:.1f} MB, a fifth "
            f"of its base; merge first: python -m index_builder --merge --out {root}"
        )


def _facts(current: CurrentProducts, plan: Plan, fields: RecordFields) -> list[FieldFacts]:
    """Return the facts of all fields that can be filtered by, of the base's products that stand and the records."""
    stand = np.ones(current.base.products, np.bool_)
    stand[plan.positions[plan.positions < len(stand)]] = False
    stand[plan.deleted] = False
    lists, count = current.base_lists.postings, len(plan.positions)
    return [
        pair_facts(name, field_type, lists.get(name), stand, fields.columns.get(name), count)
        for name, field_type in fields.types.items()
    ]
