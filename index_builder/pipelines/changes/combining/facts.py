"""Facts of the filterable fields of a base and a delta."""

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact.fields.values import Column
from retrieval.search.filters.facts import FieldFacts, FieldType
from retrieval.search.filters.postings import Postings, rank_of


def facts_of(name: str, field_type: FieldType, column: Column, count: int) -> FieldFacts:
    """Return the facts of a field of `count` products."""
    return FieldFacts(name, field_type, len(column.values), _covered(column.products, count) / count)


def pair_facts(
    name: str,
    field_type: FieldType,
    base: Postings | None,
    stand: NDArray[np.bool_],
    records: Column | None,
    record_count: int,
) -> FieldFacts:
    """Return the facts of a field of the base's products that `stand` (n,) and the records of a delta."""
    values = covered = 0
    new_values = [*records.values] if records else []
    if base:
        is_standing = stand[base.products]
        starts = np.asarray(base.starts)[:-1].astype(np.int64)
        left = np.add.reduceat(is_standing.view(np.uint8), starts, dtype=np.int64)
        values = int(np.count_nonzero(left))
        covered = _covered(base.products[is_standing], len(stand))
        ranks = [rank_of(base.values, value) for value in new_values]
        new_values = [rank for rank in ranks if rank is None or not left[rank]]
    if records:
        covered += _covered(records.products, record_count)
    count = int(np.count_nonzero(stand)) + record_count
    return FieldFacts(name, field_type, values + len(new_values), covered / count)


def _covered(products: NDArray[np.integer], count: int) -> int:
    """Return how many of `count` products are among these."""
    has_value = np.zeros(count, np.bool_)
    has_value[products] = True
    return int(np.count_nonzero(has_value))
