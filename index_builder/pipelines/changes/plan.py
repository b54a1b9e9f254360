"""Works out which records the next delta has: those of the last one that still hold, and new ones."""

from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.changes.current import CurrentProducts
from index_builder.pipelines.changes.reading import ChangeFile, Delete, SetFields, Upsert
from retrieval.search.pair import PairLayout


@dataclass(frozen=True)
class Plan:
    """The records of the next delta.

    `changes` are those that make a record, in the order of their records, by their number in the file. `changed` (c,)
    has the position in use now of each one's product, -1 for a new one. `kept_targets` (m,) say which record each of
    the last delta becomes, -1 for none, and `new_targets` (c,) which each change makes. The `positions` of the next
    records rise, as do those of `deleted` products of the base.
    """

    changes: list[tuple[int, Upsert | SetFields]]
    changed: NDArray[np.int64]
    kept_targets: NDArray[np.int64]
    new_targets: NDArray[np.int64]
    positions: NDArray[np.int64]
    deleted: NDArray[np.int64]


def plan_records(file: ChangeFile, current: CurrentProducts) -> Plan:
    """Return the records of the next delta, and add to the file's faults what is to change and does not exist."""
    layout, changes = current.layout, sorted(file.changes.items())
    positions = current.table.positions([change.identifier for _, change in changes])
    is_possible = positions >= 0
    for i, (number, change) in enumerate(changes):
        if isinstance(change, Upsert):
            is_possible[i] = True
        elif not is_possible[i]:
            file.faults[number] = f"no product has the id {change.identifier!r}"
    changes, positions = [*compress(changes, is_possible)], positions[is_possible]
    is_record = np.array([not isinstance(change, Delete) for _, change in changes], np.bool_)
    touched, gone = positions[positions >= 0], positions[~is_record & (positions >= 0)]
    # New products follow all others, in the order of the file.
    places = np.where(positions < 0, layout.count + np.arange(len(changes)), positions)
    order = np.flatnonzero(is_record)[np.argsort(places[is_record])]
    is_kept = ~np.isin(layout.positions, touched)
    all_places = np.concatenate((layout.positions[is_kept], places[order]))
    rank = np.empty(len(all_places), np.int64)
    rank[np.argsort(all_places)] = np.arange(len(all_places))
    kept_targets = np.full(len(layout.positions), -1)
    kept_targets[is_kept] = rank[: np.count_nonzero(is_kept)]
    deleted = np.union1d(layout.deleted, gone[gone < layout.base_count])
    return Plan(
        [(number, change) for number, change in map(changes.__getitem__, order) if not isinstance(change, Delete)],
        positions[order],
        kept_targets,
        rank[np.count_nonzero(is_kept) :],
        _closed_up(np.sort(all_places), layout),
        deleted,
    )


def _closed_up(places: NDArray[np.int64], layout: PairLayout) -> NDArray[np.int64]:
    """Return rising places with those behind the base made consecutive."""
    in_base = np.count_nonzero(places < layout.base_count)
    return np.concatenate((places[:in_base], layout.base_count + np.arange(len(places) - in_base)))
