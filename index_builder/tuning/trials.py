"""What tuning measured: ways to search an index, and the one that was chosen."""

from dataclasses import dataclass, field

import faiss

from index_builder.tuning.effort import Effort
from retrieval.artifact.manifest import RecallAtK
from retrieval.search.ranking import SIDES
from retrieval.search.settings import FilteredSettings, SideSettings


@dataclass(frozen=True)
class Trial:
    """A measured way to search both sides of an index of some kind: the effort of each, and the seconds of both.

    The seconds are those of a user on one thread.
    """

    factory: str
    best: Effort
    worst: Effort
    seconds: float

    @property
    def settings(self) -> SideSettings:
        return SideSettings(self.best.settings, self.worst.settings)

    @property
    def meets_target(self) -> bool:
        return self.best.meets_target and self.worst.meets_target


@dataclass(frozen=True)
class TunedIndex:
    """An index with the best trial of it; once confirmed, with its recall and all trials on the way.

    `filtered` and `uneven` are the settings of searches under a filter, as `IndexFacts` has them;
    `users_from` says which users the recall is of.
    """

    index: faiss.Index
    chosen: Trial
    recall: dict[str, list[RecallAtK]] = field(default_factory=dict)
    users_from: str = ""
    trials: list[Trial] = field(default_factory=list, repr=False)
    filtered: list[FilteredSettings] = field(default_factory=list)
    uneven: list[FilteredSettings] = field(default_factory=list)

    @property
    def factory(self) -> str:
        return self.chosen.factory

    @property
    def settings(self) -> SideSettings:
        return self.chosen.settings

    @property
    def meets_target(self) -> bool:
        return self.chosen.meets_target

    @property
    def recall_text(self) -> str:
        """The recall of each side in words."""
        return ", ".join(
            f"{side} {each.mean:.4f} (at least {each.lower_bound:.4f}) of {each.k}"
            for side in SIDES
            for each in self.recall[side]
        )
