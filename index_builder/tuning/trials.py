"""What tuning measured: ways to search an index, and the one that was chosen."""

from dataclasses import dataclass, field

import faiss

from retrieval.artifact.manifest import RecallAtK
from retrieval.search.settings import FilteredSettings, SearchSettings, SideSettings


@dataclass(frozen=True)
class Trial:
    """One measured way to search one side, and its recall at 10 on the users that it was tried on.

    `seconds` are those of a search of both sides on one thread; `reaches` says whether this side meets the target.
    """

    side: str
    factory: str
    settings: SearchSettings
    recall: float
    seconds: float
    reaches: bool


@dataclass(frozen=True)
class TunedIndex:
    """An index with the best trial of each side; once confirmed, with its recall and all trials on the way.

    `filtered` and `uneven` are the settings of searches under a filter, as `IndexFacts` has them;
    `users_from` says which users the recall is of.
    """

    factory: str
    index: faiss.Index
    chosen: dict[str, Trial]
    recall: dict[str, list[RecallAtK]] = field(default_factory=dict)
    users_from: str = ""
    trials: list[Trial] = field(default_factory=list, repr=False)
    filtered: list[FilteredSettings] = field(default_factory=list)
    uneven: list[FilteredSettings] = field(default_factory=list)

    @property
    def settings(self) -> SideSettings:
        return SideSettings(**{side: trial.settings for side, trial in self.chosen.items()})

    @property
    def meets_target(self) -> bool:
        return all(trial.reaches for trial in self.chosen.values())
