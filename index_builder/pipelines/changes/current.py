"""The products in use as an update sees them: their tables and fields, without the index over them."""

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.artifact.build import read_base
from retrieval.artifact.delta.files import Delta, open_delta
from retrieval.artifact.delta.table import PairTable
from retrieval.artifact.fields.lists import FIELD_FILES, open_fields
from retrieval.artifact.fields.writer import members
from retrieval.artifact.manifest import Manifest, check_contents, check_size
from retrieval.artifact.products import TABLE_FILES, ProductTable, open_products
from retrieval.search.filters.facts import FieldType
from retrieval.search.filters.language import Vocabulary
from retrieval.search.filters.lists import InvertedLists
from retrieval.search.filters.postings import Postings, Texts
from retrieval.search.pair import PairLayout

_HASHED_AT_ONCE = 2  # Each on a thread of its own, which hashing leaves the others to.


@dataclass(frozen=True)
class CurrentProducts:
    """A base and the delta on it, if there is one. `manifest` is of the two, `vocabulary` has the fields of both."""

    manifest: Manifest
    base: Manifest
    base_table: ProductTable
    base_lists: InvertedLists
    delta: Delta | None
    layout: PairLayout
    vocabulary: Vocabulary

    @property
    def table(self) -> ProductTable | PairTable:
        """The products by their positions."""
        return PairTable(self.layout, self.base_table, self.delta.table) if self.delta else self.base_table

    @property
    def lists(self) -> list[InvertedLists]:
        return [self.base_lists, *([self.delta.lists] if self.delta else [])]

    def postings(self, name: str) -> list[Postings]:
        """Return the lists there are of a field."""
        return [lists.postings[name] for lists in self.lists if name in lists.postings]

    def path_of(self, name: str) -> tuple[str, ...] | None:
        """Return the keys that lead to a filterable field, in a product that has it."""
        tables: Iterable[ProductTable] = [self.base_table, *([self.delta.table] if self.delta else [])]
        for lists, table in zip(self.lists, tables, strict=True):
            if name in lists.postings:
                product = table[int(lists.postings[name].products[0])]
                return next(path for path, _ in members(product) if ".".join(path) == name)
        return None

    @property
    def types(self) -> dict[str, FieldType]:
        """The types of the filterable fields, but for those that only the delta had and no product has any more."""
        facts = self.manifest.filterable
        return {each.name: each.type for each in facts if each.values or each.name in self.base_lists.postings}

    @property
    def chosen_fields(self) -> Collection[str] | None:
        """The fields that alone are to be filterable, or None where all that can be are.

        A base from before they were recorded left out others, and said no reason.
        """
        known = self.vocabulary
        if self.base.chosen_fields is None and names_of(known) - {*known.filterable, *known.reasons}:
            return known.filterable
        return self.base.chosen_fields


def names_of(vocabulary: Vocabulary) -> set[str]:
    """Return the names of all fields of a build, which has none, or has them in its file."""
    names = vocabulary.names
    return {names[i].decode() for i in range(len(names))} if isinstance(names, Texts) else set()


def open_current_products(root: Path, manifest: Manifest, also_read: Collection[str] = ()) -> CurrentProducts:
    """Verify and open what the build of a manifest has but its index. Raises BadArtifact naming the file at fault.

    The sizes of all files are checked, and the contents of those that are read, here or, of the base's, later.
    """
    own_directory = root / manifest.build_id
    base = read_base(own_directory, manifest) or manifest
    directory = root / base.build_id
    _check_files(directory, base, [name for name in (*TABLE_FILES, *FIELD_FILES, *also_read) if name in base.files])
    table = open_products(directory)
    vocabulary, lists = open_fields(directory, base.filterable, len(table))
    delta, layout = None, PairLayout(len(table), *(np.empty(0, np.int64) for _ in range(3)))
    if manifest.delta:
        _check_files(own_directory, manifest, manifest.files)
        delta = open_delta(own_directory, manifest, len(table))
        layout, vocabulary = delta.layout, delta.vocabulary
    return CurrentProducts(manifest, base, table, lists, delta, layout, vocabulary)


def _check_files(directory: Path, manifest: Manifest, read: Iterable[str]) -> None:
    """Check the sizes of all files of a build, and the contents of those that are read."""
    for name, facts in manifest.files.items():
        check_size(directory / name, facts)
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as threads:
        list(threads.map(lambda name: check_contents(directory / name, manifest.files[name]), read))
