"""`python -m service batch`: files of users to files of answers."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_builder.pipelines.build import BuildRequest, build
from service.__main__ import main
from service.recommender import Recommender
from tests.support.catalogues import products_of, write_lines
from tests.support.offline_runs import answer_lines, run, run_command, write_users
from tests.support.oracle import Oracle

DIMENSION, PRODUCTS = 6, 40
PART_ROWS = 200


@pytest.fixture(scope="module")
def products() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(PRODUCTS, DIMENSION))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, products: np.ndarray) -> Path:
    directory = tmp_path_factory.mktemp("small")
    build(BuildRequest(write_lines(directory / "products.jsonl", products_of(products)), directory / "artifacts"))
    return directory / "artifacts"


def users_of(vectors: np.ndarray) -> list[dict[str, Any]]:
    return [{"name": f"user {i}", "vector": row} for i, row in enumerate(vectors.tolist())]


def small_users(count: int, seed: int = 1) -> list[dict[str, Any]]:
    return users_of(np.random.default_rng(seed).normal(size=(count, DIMENSION)))


def error(name: str | None, code: str, detail: str, pointer: str) -> dict[str, Any]:
    return {"name": name, "error": {"code": code, "detail": detail, "pointer": pointer}}


def left_beside(output: Path) -> list[str]:
    return [path.name for path in output.parent.iterdir() if path.name.startswith(f"{output.name}.")]


@pytest.mark.parametrize("ending", ["", ".gz"], ids=["plain", "gzipped"])
def test_sample_users_get_the_bytes_that_they_get_from_the_service(
    tmp_path: Path, sample_artifacts: Path, recommender: Recommender, sample_users: list[dict[str, Any]], ending: str
) -> None:
    source, output = write_users(tmp_path / f"users.jsonl{ending}", sample_users), tmp_path / f"matches.jsonl{ending}"
    assert run(sample_artifacts, source, output) == f"{output}: 1,000 users; 0 have an error"
    written = gzip.decompress(output.read_bytes()) if ending else output.read_bytes()
    assert written == b"".join(line + b"\n" for line in answer_lines(recommender, sample_users))
    assert left_beside(output) == []


def test_sample_users_in_parquet_get_the_same_answers(
    tmp_path: Path, sample_artifacts: Path, recommender: Recommender, sample_users: list[dict[str, Any]]
) -> None:
    users = [{**user, "k": 1 + i % 12 if i % 3 else None} for i, user in enumerate(sample_users)]
    pq.write_table(pa.Table.from_pylist(users), tmp_path / "users.parquet", row_group_size=300)
    run(sample_artifacts, tmp_path / "users.parquet", tmp_path / "matches.parquet", 4)
    said = [{name: value for name, value in user.items() if value is not None} for user in users]
    expected = [json.loads(line) for line in answer_lines(recommender, said, k=4)]
    table = pq.read_table(tmp_path / "matches.parquet")
    assert table.select(["name", "best", "worst"]).to_pylist() == expected
    assert table["error_code"].null_count == table["error_detail"].null_count == len(users)


def test_answers_over_a_small_catalogue_are_exact_numpys(tmp_path: Path, artifacts: Path, products: np.ndarray) -> None:
    users = small_users(500)
    run(artifacts, write_users(tmp_path / "users.jsonl", users), tmp_path / "m.jsonl", 7)
    oracle = Oracle(products)
    answers = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [answer["name"] for answer in answers] == [user["name"] for user in users]
    for user, answer in zip(users, answers, strict=True):
        for side in ("best", "worst"):
            positions = [int(match["id"].removeprefix("p")) for match in answer[side]]
            oracle.check(np.array(user["vector"]), side, positions, [match["score"] for match in answer[side]], 7)


@pytest.mark.parametrize("formats", [("parquet", "jsonl.gz"), ("jsonl.gz", "parquet")], ids=" to ".join)
def test_rows_keep_their_order_over_many_blocks_and_either_format_answers_the_same(
    tmp_path: Path, artifacts: Path, formats: tuple[str, str]
) -> None:
    users = small_users(2 * PART_ROWS + 5)
    run(artifacts, write_users(tmp_path / "users.jsonl", users), tmp_path / "plain.jsonl", 2, PART_ROWS)
    expected = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    source, output = tmp_path / f"users.{formats[0]}", tmp_path / f"matches.{formats[1]}"
    if formats[0] == "parquet":
        pq.write_table(pa.Table.from_pylist(users), source, row_group_size=150)
    else:
        write_users(source, users)
    run(artifacts, source, output, 2, PART_ROWS)
    if formats[1] == "parquet":
        answers = pq.read_table(output).select(["name", "best", "worst"]).to_pylist()
    else:
        answers = [json.loads(line) for line in gzip.decompress(output.read_bytes()).splitlines()]
    assert answers == expected
    assert [answer["name"] for answer in answers] == [user["name"] for user in users]


def test_users_at_fault_fail_alone_and_are_named_by_their_place_among_all(tmp_path: Path, artifacts: Path) -> None:
    users: list[dict[str, Any] | bytes] = [*small_users(PART_ROWS + 6)]
    good = answers_of(tmp_path, artifacts, users)
    at = PART_ROWS + 1
    users[0] = b"{not JSON"
    users[at] = {"name": "short", "vector": [1.0, 2.0]}
    users[at + 1] = b'{"name": "nan", "vector": [1, NaN, 1, 1, 1, 1]}'
    users[at + 2] = {"name": 7, "vector": [0.0] * DIMENSION}
    users.insert(2, b" ")  # a blank line is no user
    answers = answers_of(tmp_path, artifacts, users)
    assert answers[0]["name"] is None
    assert answers[0]["error"]["code"] == "not_json"
    assert answers[0]["error"]["pointer"] == "/0"
    assert answers[at] == error("short", "vector_dimension", "vector has 2 numbers, 6 are expected", f"/{at}/vector")
    assert answers[at + 1] == error(
        "nan", "vector_not_finite", "vector element 1 is not finite: nan", f"/{at + 1}/vector/1"
    )
    assert answers[at + 2] == error(None, "type", "name must be a string, not a number", f"/{at + 2}/name")
    others = [i for i in range(len(good)) if i not in (0, at, at + 1, at + 2)]
    assert [answers[i] for i in others] == [good[i] for i in others]


def test_a_parquet_row_at_fault_is_named_by_its_place_among_all(tmp_path: Path, artifacts: Path) -> None:
    users = small_users(3 * PART_ROWS)
    users[PART_ROWS + 1]["vector"] = None
    pq.write_table(pa.Table.from_pylist(users), tmp_path / "users.parquet")
    run(artifacts, tmp_path / "users.parquet", tmp_path / "m.jsonl", 1, PART_ROWS)
    failed = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines() if '"error":' in line]
    place = PART_ROWS + 1
    assert failed == [error(f"user {place}", "null", "vector must not be null", f"/{place}/vector")]


def answers_of(directory: Path, artifacts: Path, users: list[Any]) -> list[dict[str, Any]]:
    run(artifacts, write_users(directory / "users.jsonl", users), directory / "matches.jsonl", 1, PART_ROWS)
    return [json.loads(line) for line in (directory / "matches.jsonl").read_text().splitlines()]


def test_a_parquet_output_says_what_is_wrong_in_columns_of_its_own(tmp_path: Path, artifacts: Path) -> None:
    users: list[dict[str, Any] | bytes] = [
        *small_users(2),
        {"name": "zero", "vector": [0] * DIMENSION},
        b'{"name": "\\ud800", "vector": []}',
    ]
    printed = run(artifacts, write_users(tmp_path / "users.jsonl", users), tmp_path / "m.parquet")
    assert printed == f"{tmp_path / 'm.parquet'}: 4 users; 2 have an error: 1 vector_dimension, 1 vector_zero"
    rows = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert [row["error_code"] for row in rows] == [None, None, "vector_zero", "vector_dimension"]
    assert rows[2:] == [
        {
            "name": name,
            "best": None,
            "worst": None,
            "error_code": code,
            "error_detail": detail,
            "matched": None,
            "best_fields": None,
            "worst_fields": None,
            "explain": None,
        }
        for name, code, detail in [
            ("zero", "vector_zero", "vector is all zeros, which has no direction"),
            ("\\ud800", "vector_dimension", "vector has 0 numbers, 6 are expected"),
        ]
    ]


@pytest.mark.parametrize(
    ("failed", "options", "exit_code"),
    [
        (0, ["--max-error-share", "0"], 0),
        (2, [], 0),
        (3, [], 3),
        (1, ["--max-error-share", "0"], 3),
        (29, ["--max-error-share", "0.145"], 0),
        (30, ["--max-error-share", "0.145"], 3),
        (200, ["--max-error-share", "1"], 0),
    ],
    ids=str,
)
def test_more_errors_than_allowed_end_a_complete_batch_with_a_code_of_their_own(
    tmp_path: Path,
    artifacts: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    failed: int,
    options: list[str],
    exit_code: int,
) -> None:
    users = small_users(200)
    for user in users[:failed]:
        user["vector"] = [0.0] * DIMENSION
    if failed > 1:
        users[1]["vector"] = []
    source, output = write_users(tmp_path / "users.jsonl", users), tmp_path / "m.jsonl"
    words = ["--artifact", str(artifacts), "--input", str(source), "--output", str(output), *options]
    monkeypatch.setenv("RECO_WORKERS", "1")
    assert main(["batch", *words]) == exit_code
    printed, complaint = capsys.readouterr()
    codes = {"vector_zero": failed - (failed > 1), "vector_dimension": int(failed > 1)}
    listed = ", ".join(f"{count} {code}" for code, count in sorted(codes.items(), key=lambda each: -each[1]) if count)
    if failed == 2:
        listed = "1 vector_dimension, 1 vector_zero"
    assert printed == f"{output}: 200 users; {failed} have an error{': ' if failed else ''}{listed}\n"
    share = options[-1] if options else "0.01"
    found = f"error: {failed} of 200 users have an error, more than --max-error-share {share} allows"
    assert complaint == (f"{found}; {output} is complete\n" if exit_code else "")
    assert sum('"error"' in line for line in output.read_text().splitlines()) == failed
    assert left_beside(output) == []


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "few"])
def test_a_share_of_errors_is_from_0_to_1(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["batch", "--input", "a", "--output", "b", f"--max-error-share={share}"])
    assert ended.value.code == 2
    assert f"{share!r} is no share from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
def test_no_users_get_an_output_without_rows(tmp_path: Path, artifacts: Path, ending: str) -> None:
    (tmp_path / "none.jsonl").write_bytes(b"")
    none = pa.table({"name": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))})
    pq.write_table(none, tmp_path / "none.parquet")
    for source in ("none.jsonl", "none.parquet"):
        output = tmp_path / f"m.{ending}"
        assert run(artifacts, tmp_path / source, output) == f"{output}: 0 users; 0 have an error"
        if ending == "parquet":
            assert pq.read_table(output).to_pylist() == []
        else:
            assert (gzip.decompress(output.read_bytes()) if ending == "jsonl.gz" else output.read_bytes()) == b""


def test_exclude_and_k_of_a_user_count(tmp_path: Path, artifacts: Path) -> None:
    [user] = small_users(1)
    [whole] = answers_of(tmp_path, artifacts, [{**user, "k": 5}])
    ids = [match["id"] for match in whole["best"]]
    [without] = answers_of(tmp_path, artifacts, [{**user, "k": 3, "exclude": ids[:2]}])
    assert without["best"] == whole["best"][2:]


def test_large_k_is_answered_in_pieces_as_in_one(tmp_path: Path, artifacts: Path, products: np.ndarray) -> None:
    users = [{**user, "k": 1000} for user in small_users(450)]
    answers = answers_of(tmp_path, artifacts, users)
    oracle = Oracle(products)
    assert [answer["name"] for answer in answers] == [user["name"] for user in users]
    for user, answer in zip(users, answers, strict=True):
        positions = [int(match["id"].removeprefix("p")) for match in answer["worst"]]
        scores = [match["score"] for match in answer["worst"]]
        oracle.check(np.array(user["vector"]), "worst", positions, scores, PRODUCTS)


def test_json_lines_need_no_pyarrow_and_parquet_says_that_it_does(tmp_path: Path, artifacts: Path) -> None:
    blocked = tmp_path / "blocked" / "pyarrow"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(blocked.parent), *sys.path])
    source = write_users(tmp_path / "users.jsonl", small_users(3))
    output = tmp_path / "m.jsonl"
    printed = run_command(artifacts, source, output, PYTHONPATH=path)
    assert printed == (0, f"{output}: 3 users; 0 have an error\n", "")
    code, out, err = run_command(artifacts, source, tmp_path / "m.parquet", PYTHONPATH=path)
    assert (code, out) == (1, "")
    assert (
        err == "error: writing Parquet needs pyarrow: `pip install pyarrow`, or `make install-parquet` in a checkout\n"
    )
    pq.write_table(pa.Table.from_pylist(small_users(1)), tmp_path / "users.parquet")
    code, out, err = run_command(artifacts, tmp_path / "users.parquet", tmp_path / "m.jsonl", PYTHONPATH=path)
    assert (code, out) == (1, "")
    assert err == (
        f"error: {tmp_path / 'users.parquet'}: reading Parquet needs pyarrow: `pip install pyarrow`,"
        " or `make install-parquet` in a checkout\n"
    )


def test_a_gap_in_a_column_of_k_is_the_default(tmp_path: Path, artifacts: Path) -> None:
    plain = [{name: user[name] for name in ("name", "vector")} for user in small_users(3)]
    users = [{**user, "k": k} for user, k in zip(plain, (2.0, None, 3.0), strict=True)]
    pq.write_table(pa.Table.from_pylist(users), tmp_path / "users.parquet")
    run(artifacts, tmp_path / "users.parquet", tmp_path / "m.jsonl", 1, PART_ROWS)
    answers = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    ks = [{"k": 2}, {}, {"k": 3}]
    expected = answers_of(tmp_path, artifacts, [{**user, **k} for user, k in zip(plain, ks, strict=True)])
    assert answers == expected


@pytest.mark.parametrize("suffix", ["jsonl.gz", "parquet"])
@pytest.mark.parametrize("sizes", [(0, 0), (PART_ROWS + 1, 0, 3), (0, 5, PART_ROWS)], ids=str)
def test_a_directory_of_parts_is_read_as_one_file(
    tmp_path: Path, artifacts: Path, suffix: str, sizes: tuple[int, ...]
) -> None:
    users: list[dict[str, Any]] = [*small_users(sum(sizes))]
    if len(users) > PART_ROWS:
        users[PART_ROWS]["vector"] = None
    directory, start = tmp_path / "users", 0
    directory.mkdir()
    (directory / "_SUCCESS").touch()
    kind = pa.schema([("name", pa.string()), ("vector", pa.list_(pa.float64()))])
    for number, size in enumerate(sizes):
        part, path = users[start : start + size], directory / f"part-{number:05}-7f.{suffix}"
        start += size
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(part, kind), path)
        else:
            path.write_bytes(gzip.compress(b"".join(json.dumps(user).encode() + b"\n" for user in part)))
    printed = run(artifacts, directory, tmp_path / "m.jsonl", 2, PART_ROWS)
    failed = "1 have an error: 1 null" if len(users) > PART_ROWS else "0 have an error"
    assert printed == f"{tmp_path / 'm.jsonl'}: {len(users)} users; {failed}"
    whole = write_users(tmp_path / "whole.jsonl", users) if users else write_lines(tmp_path / "whole.jsonl", [])
    run(artifacts, whole, tmp_path / "whole matches.jsonl", 2, PART_ROWS)
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "whole matches.jsonl").read_bytes()


class Inputs:
    """Files that are no users, by name."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "array.json").write_text("[]")
        (directory / "text.csv").write_text("name,vector\n")
        (directory / "torn.jsonl.gz").write_bytes(gzip.compress(json.dumps(small_users(1)[0]).encode())[:-9])
        np.savez(directory / "users.npz", names=["a"])
        write_users(directory / "users.jsonl", small_users(2))
        (directory / "torn.parquet").write_bytes(b"PAR1 is how it begins")
        pq.write_table(pa.table({"name": ["a"]}), directory / "no vector.parquet")
        pq.write_table(pa.table({"name": [7], "vector": [[1.0]]}), directory / "numbers.parquet")
        pq.write_table(pa.table({"name": ["a"], "vector": ["1 2"]}), directory / "texts.parquet")
        pq.write_table(pa.table({"name": ["a"], "vector": [[1.0]], "k": ["1"]}), directory / "k.parquet")
        for name in ("empty", "mixed", "torn"):
            (directory / name).mkdir()
        (directory / "empty" / "_SUCCESS").touch()
        pq.write_table(pa.Table.from_pylist(small_users(1)), directory / "mixed" / "part-0.parquet")
        write_users(directory / "mixed" / "part-1", small_users(1))
        (directory / "torn" / "part-1.parquet").write_bytes(b"PAR1 is how it begins")
        (directory / "zipped.parquet.gz").write_bytes(gzip.compress((directory / "k.parquet").read_bytes()))


@pytest.mark.parametrize(
    ("source", "output", "complaint"),
    [
        ("missing.jsonl", "m.jsonl", "{in}: cannot be read: "),
        (".", "m.jsonl", "{out}: lies in the input, where it would be taken for a part\n"),
        ("empty", "m.jsonl", "{in}: is a directory without parts, which are named as part-00000.parquet is\n"),
        ("mixed", "m.jsonl", "{in}: has parts of JSON lines beside parts of Parquet\n"),
        ("torn", "m.jsonl", "{in}/part-1.parquet: not a readable Parquet file: "),
        ("array.json", "m.jsonl", "{in}: a JSON array cannot be streamed; "),
        ("text.csv", "m.jsonl", "{in}: users must be JSON lines (which may be gzipped) or Parquet\n"),
        ("users.npz", "m.jsonl", "{in}: users must be JSON lines (which may be gzipped) or Parquet, not NPZ\n"),
        ("torn.jsonl.gz", "m.jsonl", "{in}: cannot be read: "),
        ("torn.parquet", "m.jsonl", "{in}: not a readable Parquet file: "),
        ("no vector.parquet", "m.jsonl", "{in}: needs columns 'name' and 'vector', has name\n"),
        ("numbers.parquet", "m.jsonl", "{in}: column 'name' must hold strings, not int64\n"),
        ("texts.parquet", "m.jsonl", "{in}: column 'vector' must hold lists of numbers, not string\n"),
        ("k.parquet", "m.jsonl", "{in}: column 'k' must hold integers, not string\n"),
        ("zipped.parquet.gz", "m.jsonl", "{in}: a gzipped Parquet file cannot be read; gunzip it first\n"),
        (
            "users.jsonl",
            "m.csv",
            "{out}: the name must end in one of .parquet, .jsonl, .ndjson, .jsonl.gz, .ndjson.gz\n",
        ),
        ("users.jsonl", "users.jsonl", "{out}: is the input\n"),
        ("users.jsonl", "none/m.jsonl", "{out}: its directory does not exist\n"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    tmp_path: Path, artifacts: Path, source: str, output: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Inputs(tmp_path).directory
    before = sorted(directory.iterdir())
    paths = {"in": directory / source, "out": directory / output}
    assert main(["batch", *_words(artifacts, paths["in"], paths["out"])]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: " + complaint.format(**paths))
    assert err.count("\n") == 1
    assert not paths["out"].exists() or source == output
    if source != "torn.jsonl.gz":  # found out when some of it has been read
        assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("rows", [0, 100_001])
def test_a_size_of_parts_out_of_range_is_refused(
    tmp_path: Path, artifacts: Path, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_users(tmp_path / "users.jsonl", small_users(1))
    assert main(["batch", *_words(artifacts, source, tmp_path / "m.jsonl"), "--part-rows", str(rows)]) == 1
    assert capsys.readouterr().err == f"error: --part-rows {rows}: must be from 1 to 100000\n"


@pytest.mark.parametrize("k", [0, 1001])
def test_a_k_out_of_range_is_refused(
    tmp_path: Path, artifacts: Path, k: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_users(tmp_path / "users.jsonl", small_users(1))
    assert main(["batch", *_words(artifacts, source, tmp_path / "m.jsonl"), "--k", str(k)]) == 1
    assert capsys.readouterr().err == f"error: --k {k}: must be from 1 to 1000 (RECO_MAX_K)\n"


def test_a_build_that_cannot_be_opened_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_users(tmp_path / "users.jsonl", small_users(1))
    assert main(["batch", *_words(tmp_path / "nothing", source, tmp_path / "m.jsonl")]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'nothing' / 'CURRENT'}: cannot be read ")
    assert err.count("\n") == 1


def _words(artifacts: Path, source: Path, output: Path) -> list[str]:
    return ["--artifact", str(artifacts), "--input", str(source), "--output", str(output)]


_PEAK_OF = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_number_of_users(tmp_path: Path, artifacts: Path) -> None:
    vectors = np.random.default_rng(3).normal(size=(1, DIMENSION)).tolist()[0]
    padding = "x" * 2000  # a field that is ignored: 50,000 users of 2 kB are 100 MB
    line = json.dumps({"name": "ann", "vector": vectors, "likes": padding}).encode() + b"\n"
    peaks = {}
    for count in (4096, 50_000):
        source = tmp_path / f"{count}.jsonl"
        source.write_bytes(line * count)
        words = _words(artifacts, source, tmp_path / "m.jsonl")
        measured = subprocess.run(
            [sys.executable, "-c", _PEAK_OF, sys.executable, "-m", "service", "batch", *words, "--k", "1"],
            env={**os.environ, "RECO_WORKERS": "1"},
            capture_output=True,
            check=True,
        )
        assert len((tmp_path / "m.jsonl").read_bytes().splitlines()) == count
        peaks[count] = int(measured.stdout) / 1024  # MB, of the largest process
    assert peaks[50_000] < peaks[4096] + 40
    assert peaks[50_000] < 250
