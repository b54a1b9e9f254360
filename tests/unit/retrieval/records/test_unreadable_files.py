"""Files that cannot be read as rows are refused by name, whatever is wrong with them."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import BadRows
from retrieval.records.rows import read_rows

LINES = b"".join(
    json.dumps({"id": i, "vector": vector}).encode() + b"\n"
    for i, vector in enumerate(np.random.default_rng(0).normal(size=(200, 8)).tolist())
)


def refusal(path: Path) -> str:
    """The message with which a file is refused, without the file's name, which it must begin with."""
    with pytest.raises(BadRows) as caught:
        list(read_rows(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def compressed_npz() -> bytes:
    out = io.BytesIO()
    names = np.array([f"product {i}" for i in range(300)])
    np.savez_compressed(out, names=names, vectors=np.random.default_rng(0).normal(size=(300, 4)))
    return out.getvalue()


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(tmp_path / "missing.jsonl")


def test_a_directory_without_parts(tmp_path: Path) -> None:
    for name in ("_SUCCESS", ".part-00000.parquet.crc", "README.md"):
        (tmp_path / name).touch()
    assert refusal(tmp_path) == "is a directory without parts, which are named as part-00000.parquet is"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"ARROW1\0\0", "a Feather or Arrow IPC file"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"BZh9", "compressed by bzip2"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"\x04\x22\x4d\x18", "compressed by lz4"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"\x80\x04\x95", "a Python pickle, which could run any code"),
        ("[]".encode("utf-16"), "UTF-16 text"),
    ],
)
def test_what_a_file_is_and_what_to_do(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / "f").write_bytes(start + bytes(50))
    assert refusal(tmp_path / "f") == f"is {name}; JSON lines, CSV, Parquet and NPZ can be read"


def test_an_archive_without_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert refusal(tmp_path / "f") == ("is a ZIP archive without arrays; JSON lines, CSV, Parquet and NPZ can be read")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999], ids=["after the magic bytes", "half way", "before the end"])
def test_a_gzip_file_that_ends_early(tmp_path: Path, share: float) -> None:
    whole = gzip.compress(LINES)
    (tmp_path / "f.gz").write_bytes(whole[: max(2, int(len(whole) * share))])
    assert refusal(tmp_path / "f.gz").startswith("cannot be read: ")


def test_a_gzip_file_with_any_byte_of_its_checksum_wrong(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(LINES))
    whole[-5] ^= 0xFF
    (tmp_path / "f.gz").write_bytes(whole)
    assert refusal(tmp_path / "f.gz").startswith("cannot be read: ")


def test_a_gzip_file_with_damaged_content(tmp_path: Path) -> None:
    whole = gzip.compress(LINES)
    for position in range(10, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "f.gz").write_bytes(damaged)
        assert refusal(tmp_path / "f.gz").startswith("cannot be read: ")


def test_a_gzip_file_followed_by_something_else(tmp_path: Path) -> None:
    (tmp_path / "f.gz").write_bytes(gzip.compress(LINES) + b"more")
    assert refusal(tmp_path / "f.gz").startswith("cannot be read: ")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_an_npz_file_that_ends_early(tmp_path: Path, share: float) -> None:
    whole = compressed_npz()
    (tmp_path / "f.npz").write_bytes(whole[: int(len(whole) * share)])
    assert refusal(tmp_path / "f.npz").startswith("not a readable NPZ file: ")


def test_an_npz_file_with_damaged_content(tmp_path: Path) -> None:
    whole = compressed_npz()
    for position in range(200, len(whole) - 300, 101):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "f.npz").write_bytes(damaged)
        assert refusal(tmp_path / "f.npz").startswith("not a readable NPZ file: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"name": "a"},', "not JSON: "),
        (b'[{"name": "a"}] []', "not JSON: Extra data: "),
        (b'[{"name": "\xff"}]', "not UTF-8: invalid start byte at byte 11"),
        (b"[" * 200_000, "nested too deeply"),
    ],
    ids=["ends early", "goes on", "not UTF-8", "too deep"],
)
def test_an_array_that_is_no_json(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    assert refusal(tmp_path / "f.json").startswith(reason)
