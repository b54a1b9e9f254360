"""What a base and a delta answer to golden queries, worked out from what the base alone answered."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_builder.pipelines.changes.current import CurrentProducts
from retrieval.artifact.golden import MATCHES
from retrieval.artifact.manifest import GoldenQuery
from retrieval.artifact.products import ProductTable
from retrieval.search.ranking import SIDES, SIGNS, UNITS, RowGroups, to_millionths
from retrieval.search.stored_vectors import StoredVectors

Answer = tuple[int, int, str]  # score in millionths, the lower the better, catalogue position, and id


@dataclass(frozen=True)
class DeltaVectors:
    """The vectors of a delta, one a row of `groups`, which are of records; and the records' `table` and `positions`."""

    vectors: StoredVectors | None
    groups: RowGroups
    table: ProductTable
    positions: NDArray[np.int64]


def golden_answers(current: CurrentProducts, gone: NDArray[np.int64], delta: DeltaVectors) -> list[GoldenQuery]:
    """Return the base's golden queries with the answers of the pair, as far as they are known without a search.

    Products at the `gone` positions do not have the base's vectors any more. What the base would answer behind the last
    of its recorded answers is unknown, and so is what comes behind it in the pair. A query of which nothing is known on
    a side is left out.
    """
    absent, queries = {*gone.tolist()}, current.base.golden_queries
    answers = []
    for query, millionths in zip(queries, _scores(queries, delta), strict=True):
        sides = {}
        for side in SIDES:
            sign = -int(SIGNS[side])
            base = _base_answers(current, getattr(query, side), sign)
            is_all = len(base) == current.base.products
            added = _delta_answers(sign * millionths, delta)
            standing = [answer for answer in base if answer[1] not in absent]
            known = [each for each in sorted(standing + added)[:MATCHES] if is_all or each <= base[-1]]
            sides[side] = {identifier: sign * score / UNITS for score, _, identifier in known}
        if all(sides.values()):
            answers.append(GoldenQuery(query.vector, **sides))
    return answers


def _scores(queries: list[GoldenQuery], delta: DeltaVectors) -> NDArray[np.int64]:
    """Return the score in millionths of each query (q,) with the records that have a vector, in their groups' order."""
    if delta.vectors is None:
        return np.empty((len(queries), 0), np.int64)
    units = np.array([query.vector for query in queries], np.float32)
    rows = np.tile(np.arange(delta.groups.row_count), (len(units), 1))
    return to_millionths(delta.vectors.score(units, rows)).repeat(np.diff(delta.groups.starts), axis=1)


def _base_answers(current: CurrentProducts, recorded: dict[str, float], sign: int) -> list[Answer]:
    positions = current.base_table.positions([*recorded]).tolist()
    pairs = zip(recorded.items(), positions, strict=True)
    return [(sign * round(score * UNITS), position, identifier) for (identifier, score), position in pairs]


def _delta_answers(signed: NDArray[np.int64], delta: DeltaVectors) -> list[Answer]:
    """Return the first of the records, by their scores in their groups' order, of which the lowest is the best."""
    records = delta.groups.products
    first = np.lexsort((records, signed))[:MATCHES]
    found = records[first]
    return [*zip(signed[first].tolist(), delta.positions[found].tolist(), delta.table.ids(found), strict=True)]
