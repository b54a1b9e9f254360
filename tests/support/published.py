"""A small published build, and manifests that are changed by hand."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index_builder.pipelines.build import BuildRequest, build
from retrieval.artifact.manifest import Manifest
from tests.support.catalogues import products_of, write_lines

PRODUCTS, DIMENSION = 30, 5


def publish(root: Path, seed: int = 0, **options: Any) -> Manifest:
    """Build thirty products with a pair of identical ones into an artifacts root and return the manifest."""
    vectors = np.random.default_rng(seed).normal(size=(PRODUCTS, DIMENSION))
    vectors[20 + seed] = vectors[3 + seed]
    products = [{**product, "season": seed} for product in products_of(vectors)]
    source = write_lines(root.parent / f"products {seed}.jsonl", products)
    return build(BuildRequest(products=source, out=root, **options))


def current(root: Path) -> Path:
    """The directory of the build in use."""
    return root / (root / "CURRENT").read_text().strip()


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Change a build's manifest; unless `seal` is off, make its checksum fit again."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if seal:
        manifest["checksum"] = manifest_checksum(manifest)
    path.write_text(json.dumps(manifest))


def manifest_checksum(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def file_facts(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
