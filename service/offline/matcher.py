"""The function that turns a batch of users into a batch of answers, wherever batches come from. Needs pyarrow."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pyarrow as pa

from service.errors import BadBatch, BadSetting
from service.http.requests.user_reader import collect_block
from service.offline.answers import Answerer, check_model
from service.offline.record_batches import ANSWERS, USER_COLUMNS, answer_batch, as_json, read_users
from service.recommender import UserBlock
from service.settings import Limits

Batch = TypeVar("Batch")  # a pyarrow.RecordBatch, a pyarrow.Table or a pandas.DataFrame


@dataclass(frozen=True)
class BatchMatcher:
    """Answers a batch of users with one of the same kind: a pyarrow RecordBatch or Table, or a pandas DataFrame.

    Users come with the columns `name` (string) and `vector` (list of as many numbers as the index has dimensions) and,
    if wanted, the options of a request in `k` (integer, null for the matcher's `k`), `exclude` (list of product ids),
    `filter` (JSON as a string), `min_score` and `max_score` (numbers), `fields` (list of names), `explain` (boolean);
    other columns are ignored. Row for row, answers have the columns `name`, `best` and `worst`, lists of structs {id,
    name, score} as `/batch` gives them, and `error_code` and `error_detail`, which are null for a user that was
    answered; one that was not has null lists. Null where no option asks for them are `matched`, `best_fields` and
    `worst_fields`, lists with the fields of each match as JSON, and `explain`, JSON. `SPARK_SCHEMA` says the same to
    Spark.

    A matcher can be pickled. It opens and verifies the build on first use, once a process, and uses one core: Spark and
    Ray run as many processes as there are cores, and these share the mapped index. Name the `build_id` where all must
    answer from one build though new ones may be published meanwhile, and keep it until all have opened it: deltas are
    pruned soon, unless `--keep` is large or the driver holds `retrieval.artifact.store.pin`.

        Ray:    users.map_batches(BatchMatcher, fn_constructor_args=["/mnt/artifacts"], batch_format="pyarrow",
                                  compute=ray.data.ActorPoolStrategy(size=7))    # fewer than there are CPUs
        Spark:  users.mapInPandas(BatchMatcher("/mnt/artifacts").each, SPARK_SCHEMA)    # and so mapInArrow

    Both want `artifacts` and this package on every node. Only products that match the `filter`, parsed JSON, are found,
    beside the users' own filters. Raises BadArtifact, or BadBatch where a column is missing or has another type, where
    the filter does not fit the build, and where that is not of the `embedding_model` that made the users' vectors.
    """

    artifacts: str
    k: int = 10
    build_id: str | None = None
    filter: dict[str, Any] | None = None
    embedding_model: str | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadBatch(f"k={self.k}: must be at least 1")
        self._shown()

    def __call__(self, batch: Batch) -> Batch:
        answerer = _answerer(self.artifacts, self.k, self.build_id, self._shown())
        check_model(answerer.embedding_model, self.embedding_model)
        if isinstance(batch, pa.RecordBatch):
            answers = _answers(answerer, [read_users(batch, answerer)])
            return pa.concat_batches([pa.RecordBatch.from_pylist([], ANSWERS), *answers.to_batches()])
        if isinstance(batch, pa.Table):
            return _answers(answerer, _users_of_table(batch, answerer))
        if "pandas" in sys.modules and isinstance(batch, sys.modules["pandas"].DataFrame):
            return _answers(answerer, _users_of_frame(batch, answerer)).to_pandas()
        raise TypeError(f"a batch is a pyarrow RecordBatch or Table, or a pandas DataFrame, not {type(batch).__name__}")

    def each(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Answer batch after batch."""
        return map(self, batches)

    def _shown(self) -> str:
        """Return the filter as JSON text, empty where there is none. Raises BadBatch."""
        try:
            return "" if self.filter is None else orjson.dumps(self.filter).decode()
        except TypeError as error:
            raise BadBatch(f"filter={self.filter!r}: must be JSON: {error}") from error


_SPARK_MATCHES = "array<struct<id: string, name: string, score: double>>"
SPARK_SCHEMA = (
    f"name string, best {_SPARK_MATCHES}, worst {_SPARK_MATCHES}, error_code string, error_detail string, "
    "matched bigint, best_fields array<string>, worst_fields array<string>, explain string"
)


@cache
def _answerer(artifacts: str, k: int, build_id: str | None, shown: str) -> Answerer:
    limits = Limits(default_k=k, max_k=max(k, Limits.max_k))
    try:
        return Answerer(Path(artifacts), limits, build_id, shown)
    except BadSetting as error:
        raise BadBatch(f"filter={shown} does not fit the build: {error.__cause__}") from error


def _answers(answerer: Answerer, blocks: Iterable[UserBlock]) -> pa.Table:
    answers = answerer.answer(blocks)
    return pa.Table.from_batches((answer_batch(some, answerer.prefixes) for some in answers), ANSWERS)


def _users_of_table(table: pa.Table, answerer: Answerer) -> Iterator[UserBlock]:
    first = 0
    for batch in table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]:
        yield read_users(batch, answerer, first)
        first += len(batch)


def _users_of_frame(frame: Any, answerer: Answerer) -> Iterable[UserBlock]:
    columns = frame[[name for name in USER_COLUMNS if name in frame]]
    try:
        table = pa.Table.from_pandas(columns, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # A column has mixed types, so some rows are at fault, not all.
        rows = [{name: _plain_python(value) for name, value in row.items()} for row in columns.to_dict("records")]
        members = [answerer.reader.read_member(as_json(row), i) for i, row in enumerate(rows)]
        return [collect_block(members, answerer.dimension)]
    return _users_of_table(table, answerer)


def _plain_python(value: Any) -> Any:
    """Return a member of a frame as JSON would give it: None where it is missing, an integer where it is whole."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    pandas = sys.modules["pandas"]
    return None if pandas.api.types.is_scalar(value) and pandas.isna(value) else value
