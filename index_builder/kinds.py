"""Which kinds of index are worth trying for a catalogue."""

import math

_FEWEST_ROWS = 5_000  # an exact scan of fewer takes less than the service around it
_ROWS_FOR_LISTS = 100_000
_ROWS_FOR_NO_SCANS = 500_000


def suitable_kinds(rows: int, dimension: int, compact: bool = False) -> list[list[str]]:
    """The kinds worth trying for a catalogue, list by list: the next one is for when none of a list will do.

    Of large catalogues only one is tried: finer codes need fewer candidates, whose vectors lie far apart in memory; a
    `compact` index has coarser ones, as its vectors are smaller too.

    Word-embedding means vary mostly in a third of their directions: scanning those with four bits each, and
    re-ranking, beats finer codes of everything. Catalogues that vary in all directions need all of them.
    """
    if rows < _FEWEST_ROWS:
        return []
    lists = 2 ** round(math.log2(4 * math.sqrt(rows)))
    scans = [f"Reduce{size},PQ{size}x4fs" for size in (64, 80, 96, 128) if size < dimension]
    lookups = [f"Reduce{size},IVF{lists},PQ{size}x4fs" for size in sorted({min(80, dimension), min(128, dimension)})]
    even = dimension + dimension % 2
    whole = [f"Reduce{even},PQ{even // 2}x4fs", f"Reduce{dimension},PQ{dimension}x4fs"]
    if rows < _ROWS_FOR_LISTS:
        return [scans, whole]
    if rows < _ROWS_FOR_NO_SCANS:
        return [scans[1:3] + lookups, whole]
    return [lookups[:1] if compact else lookups[-1:], whole]
