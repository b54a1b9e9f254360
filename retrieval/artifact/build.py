"""Opens builds, each verified before it serves: whole ones, and deltas on them."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.artifact import golden
from retrieval.artifact.delta.files import DELTA_FILES, VECTORS, check_found, open_delta
from retrieval.artifact.delta.table import PairRows, PairTable
from retrieval.artifact.fields.lists import FIELD_FILES, open_fields
from retrieval.artifact.manifest import (
    MANIFEST,
    Manifest,
    check_contents,
    check_size,
    read_manifest,
)
from retrieval.artifact.products import ROW_FILES, TABLE_FILES, ProductTable, RowTable, open_products, open_rows
from retrieval.artifact.projection import Projection, open_projection
from retrieval.artifact.sample_users import open_sample_users
from retrieval.errors import BadArtifact
from retrieval.search.exact_scan import Pace
from retrieval.search.files import open_index
from retrieval.search.filters.language import EVERYTHING
from retrieval.search.filters.masks import FilterIndex, Mask, MaskMaker
from retrieval.search.filters.tree import Filter
from retrieval.search.index import ProductIndex
from retrieval.search.pair import PairIndex, PairLists, PairMask, PairMaskMaker
from retrieval.search.ranking import Neighbours, RowGroups
from retrieval.search.stored_vectors import NegatedVectors, StoredVectors

BEST, WORST = "best.faiss", "worst.faiss"
REPORT = "report.html"
_MAPPED_FILES = (*TABLE_FILES, *ROW_FILES, *FIELD_FILES, *DELTA_FILES, BEST, WORST, VECTORS)


@dataclass(frozen=True)
class Build(ABC):
    """An open build: the manifest as published, what searches, filters and shows its products, and users to try it.

    `rows` says where the vector of each product is; `report` is the page about the build, or about the base of a delta,
    which older builds do not have.
    """

    manifest: Manifest
    index: ProductIndex | PairIndex
    products: ProductTable | PairTable
    rows: RowTable | PairRows
    filters: FilterIndex[Any]
    projection: Projection
    sample_users: list[dict[str, Any]]
    report: bytes | None

    @property
    def id(self) -> str:
        return self.manifest.build_id

    @property
    @abstractmethod
    def base(self) -> "WholeBuild":
        """The build that this is a delta on, or the build itself."""

    def vectors(self, positions: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the unit vectors (m, d) of the products at these catalogue positions (m,)."""
        return self.index.vectors(self.rows.of(positions))

    def search_matching(
        self,
        unit_vectors: NDArray[np.float32],
        k: int,
        query: Filter,
        excluded: Collection[str] = (),
        without: Filter | None = None,
        pace: Pace | None = None,
    ) -> tuple[Neighbours, Neighbours, int]:
        """Search the products that a filter matches, as `ProductIndex.search` does, and return how many these are.

        Those with `excluded` ids, and those that the filter `without` lets through, are counted, but not found.
        """
        matching = self.filters.mask(query)
        mask = self.filters.but(matching, without) if without else matching
        if excluded:
            positions = self.products.positions([*excluded])
            mask = self.filters.without(mask, positions[positions >= 0])
        best, worst = self.index.search(unit_vectors, k, mask, pace)
        return best, worst, matching.matched


@dataclass(frozen=True)
class WholeBuild(Build):
    """A build of all its products."""

    index: ProductIndex
    products: ProductTable
    rows: RowTable
    filters: FilterIndex[Mask]

    @property
    def base(self) -> "WholeBuild":
        return self


@dataclass(frozen=True)
class PairBuild(Build):
    """A delta with the build that it is on."""

    index: PairIndex
    products: PairTable
    rows: PairRows
    filters: FilterIndex[PairMask]
    _base: WholeBuild

    @property
    def base(self) -> WholeBuild:
        return self._base


def open_build(root: Path, build_id: str, verified: bool = False, reuse: Build | None = None) -> Build:
    """Open a build; its checksums and golden queries are left out where they were `verified` before.

    The base of a delta is that of the build to `reuse`, if it is the one. The golden queries of a delta are replayed in
    any case: it takes no time once its base is open. Raises BadArtifact naming the file at fault.
    """
    return _open_build(root / build_id, read_checked_manifest(root / build_id), verified, reuse)


def check_build(root: Path, build_id: str, verified_base: str | None = None) -> str:
    """Verify a build as `open_build` does, and return the id of its base, or its own.

    Of a delta on a base that was verified before, only its own files are looked at: who opens it replays the golden
    queries. Raises BadArtifact naming the file at fault.
    """
    directory = root / build_id
    manifest = read_checked_manifest(directory)
    if not manifest.delta or manifest.delta.base != verified_base:
        return _open_build(directory, manifest).base.id
    read_base(directory, manifest)
    _check_files(directory, manifest, verified=False)
    return verified_base


def _open_build(directory: Path, manifest: Manifest, verified: bool = False, reuse: Build | None = None) -> Build:
    of_base = read_base(directory, manifest)
    _check_files(directory, manifest, verified)
    base = None
    if of_base:
        is_open = reuse is not None and reuse.base.id == of_base.build_id
        path = directory.with_name(of_base.build_id)
        base = reuse.base if reuse and is_open else _open_build(path, of_base, verified)
    try:
        build = _open_whole(directory, manifest) if base is None else open_pair(directory, manifest, base)
        for subject, count, found in (
            ("products", manifest.products, len(build.products)),
            ("dimension", manifest.dimension, build.index.dimension),
            *(("numbers in a golden query", len(each.vector), manifest.dimension) for each in manifest.golden_queries),
        ):
            if found != count:
                raise BadArtifact(f"{MANIFEST}: says {count} {subject}, the files hold {found}")
        if base or not verified:
            subject = "{side} side" if base else "{side}.faiss"
            golden.replay(manifest.golden_queries, build.index.search, build.products.prefixes, subject)
        if isinstance(build, WholeBuild) and not verified:
            _check_negated(directory, build)
    except (BadArtifact, OSError) as error:
        raise BadArtifact(f"{directory}: {error}") from error
    return build


def base_of(root: Path, build_id: str) -> str | None:
    """Return the id of the build that a delta is on, and None for a whole build. Raises BadArtifact."""
    return read_manifest(root / build_id).base_id


def _open_whole(directory: Path, manifest: Manifest) -> WholeBuild:
    products = open_products(directory)
    rows = open_rows(directory, len(products))
    vocabulary, lists = open_fields(directory, manifest.filterable, len(products))
    maker = MaskMaker(rows.groups, rows.row_of_product)
    return WholeBuild(
        manifest,
        _open_index(directory / BEST, manifest, rows.groups),
        products,
        rows,
        FilterIndex(vocabulary, lists, maker),
        open_projection(directory),
        open_sample_users(directory),
        _read_report(directory, manifest),
    )


def open_pair(directory: Path, manifest: Manifest, base: Build) -> PairBuild:
    """Open a delta on its base, and nothing of its golden queries.

    Raises BadArtifact, also where the search does not find its products.
    """
    if not isinstance(base, WholeBuild):
        raise BadArtifact(f"{MANIFEST}: names a delta, {base.id}, as the base")
    if manifest.embedding_model != base.manifest.embedding_model:
        models = f"{manifest.embedding_model!r}, its base {base.manifest.embedding_model!r}"
        raise BadArtifact(f"{MANIFEST}: names the embedding model {models}")
    delta = open_delta(directory, manifest, len(base.products))
    lists = PairLists(delta.layout, base.filters.lists, delta.lists)
    filters = FilterIndex(delta.vocabulary, lists, PairMaskMaker(delta.layout, base.filters.maker))
    index = PairIndex(base.index, delta.index, filters.mask(EVERYTHING))
    check_found(delta, index)
    return PairBuild(
        manifest,
        index,
        PairTable(delta.layout, base.products, delta.table),
        PairRows(delta.layout, base.rows),
        filters,
        base.projection,
        base.sample_users,
        base.report,
        base,
    )


def _read_report(directory: Path, manifest: Manifest) -> bytes | None:
    """Return the report of a build that has one; without it, it answers all the same."""
    try:
        return (directory / REPORT).read_bytes() if REPORT in manifest.files else None
    except OSError:
        return None


def _open_index(
    path: Path, manifest: Manifest, groups: RowGroups, vectors: StoredVectors | None = None
) -> ProductIndex:
    index, facts = open_index(path), manifest.index
    try:
        return ProductIndex(index, groups, facts.search, vectors, facts.filtered, facts.uneven)
    except BadArtifact as error:
        raise BadArtifact(f"{path.name}: {error}") from error


def _check_negated(directory: Path, build: WholeBuild) -> None:
    """Raise BadArtifact where the negated index does not answer the negated query as the build does the query.

    Nothing searches it after that: the other index answers both sides, in less time and memory.
    """
    manifest = build.manifest
    if manifest.index.worst == "shared":
        return
    vectors = NegatedVectors(build.index.stored_vectors)
    negated = _open_index(directory / WORST, manifest, build.rows.groups, vectors)
    golden.replay(manifest.golden_queries, lambda units, k: negated.search(-units, k), build.products.prefixes, WORST)


def read_checked_manifest(directory: Path) -> Manifest:
    """Read a manifest. Raises BadArtifact where it is that of another build, or does not list all files of one."""
    return _checked(directory, read_manifest(directory))


def _checked(directory: Path, manifest: Manifest) -> Manifest:
    if manifest.build_id != directory.name:
        raise BadArtifact(f"{directory / MANIFEST}: is of build {manifest.build_id}")
    if manifest.delta:
        needed = {*DELTA_FILES}
    else:
        needed = {*TABLE_FILES, *ROW_FILES, BEST, *([WORST] if manifest.index.worst == "negated" else [])}
    needed.update(FIELD_FILES if manifest.filterable else ())
    if unlisted := needed - manifest.files.keys():
        raise BadArtifact(f"{directory / MANIFEST}: lists no {', '.join(sorted(unlisted))}")
    return manifest


def read_base(directory: Path, manifest: Manifest) -> Manifest | None:
    """Read the manifest of the build that one is a delta on, if it is one.

    Raises BadArtifact where that is missing, or another one than it was.
    """
    delta = manifest.delta
    if delta is None:
        return None
    path = directory.with_name(delta.base)
    try:
        base = read_manifest(path)
    except BadArtifact as error:
        raise BadArtifact(f"{directory}: is a delta on {delta.base}: {error}") from error
    if base.checksum != delta.base_checksum:
        raise BadArtifact(f"{directory / MANIFEST}: is of a delta on another build {delta.base} than {path}")
    return _checked(path, base)


def _check_files(directory: Path, manifest: Manifest, verified: bool) -> None:
    """Raise BadArtifact where a file is not the one in the manifest: of another size, or, unless verified, content."""
    # All sizes come first: they cost nothing, and a file that is too short would end the process that maps it.
    names = [name for name in manifest.files if not verified or name in _MAPPED_FILES]
    for check in (check_size,) if verified else (check_size, check_contents):
        for name in names:
            check(directory / name, manifest.files[name])
