"""FAISS index files: memory-mapped to search, and written whole or not at all."""

from pathlib import Path

import faiss

from retrieval.errors import BadArtifact

_WRITE_BYTES = 2**20


def open_index(path: Path) -> faiss.Index:
    """Memory-map an index file, so that processes share its pages. Raises BadArtifact where FAISS cannot read it."""
    return _read(path, faiss.IO_FLAG_MMAP_IFC)


def read_index(path: Path) -> faiss.Index:
    """Read an index file into memory, where it can be changed. Raises BadArtifact where FAISS cannot read it."""
    return _read(path, 0)


def _read(path: Path, flags: int) -> faiss.Index:
    try:
        with path.open("rb") as file:  # FAISS takes no name that is not UTF-8.
            return faiss.read_index(f"/dev/fd/{file.fileno()}", flags)
    except (OSError, RuntimeError) as error:
        raise BadArtifact(f"{path}: not a readable FAISS index: {str(error).strip().splitlines()[0]}") from error


def write_index(index: faiss.Index, path: Path) -> None:
    """Write an index file. Raises OSError where the disk does not take all of it.

    FAISS's own writer only prints a message when closing fails, and leaves a file without its end.
    """
    try:
        with path.open("wb") as file:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _WRITE_BYTES))
    except (OSError, RuntimeError) as error:
        raise OSError(f"{path}: cannot be written: {str(error).strip().splitlines()[0]}") from error
