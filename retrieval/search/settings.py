"""How hard one side of an index is searched."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SCAN_ADVANTAGE = 8
MAX_UNEVENNESS = 0.03  # of a mask that is searched as evenly spread over the lists


@dataclass(frozen=True)
class SearchSettings:
    """The effort of a search on one side of an approximate index.

    It re-ranks at least `candidates` rows exactly, and at least `per_match` for each row requested. The candidates are
    picked from `nprobe` lists where the index has lists.
    """

    candidates: int = 0
    per_match: float = 1.0
    nprobe: int = 0

    def candidates_for(self, depth: int) -> int:
        """Return how many rows to re-rank for the `depth` nearest ones."""
        return max(self.candidates, math.ceil(self.per_match * depth), depth)


def fewest_for_scan(rows: int) -> int:
    """Return the number of candidates from which on a search scans all of an index's rows instead, without its codes.

    Rows picked here and there cost several times as much each as a scan of all in memory order.
    """
    return math.ceil(rows / SCAN_ADVANTAGE)


@dataclass(frozen=True)
class SideSettings:
    """The settings of each side's search."""

    best: SearchSettings = SearchSettings()
    worst: SearchSettings = SearchSettings()


@dataclass(frozen=True)
class FilteredSettings:
    """The settings of a search under a mask that holds `max_share` of the rows at most."""

    max_share: float
    search: SideSettings


def settings_under(share: float, filtered: Sequence[FilteredSettings], plain: SideSettings) -> SideSettings:
    """Return the settings of a search under a mask that holds a share of the rows."""
    return next((each.search for each in filtered if share <= each.max_share), plain)
