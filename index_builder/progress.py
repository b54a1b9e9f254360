"""Progress bars for long steps; silent where standard error is no terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    return iter(tqdm(items, desc=label, total=total, disable=None, leave=False))
