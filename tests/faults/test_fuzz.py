"""Bad input of every kind.

Each answer is one that the document allows, the good users among the bad get theirs, and no worker dies,
hangs or grows.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from index_builder.pipelines.build import BuildRequest, build
from tests.support.api import JSON, NDJSON
from tests.support.catalogues import products_of, write_lines
from tests.support.figures import record
from tests.support.server import Server, serving

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
DIMENSION = 4  # few numbers a vector: more cases a second, and as many ways to be wrong
GREATEST_DECIMAL = 17976931348623157 * 10**292  # the greatest float as it is written
FIRST_BEYOND = 2**1024 - 2**970  # the least number that reads as infinity
HANG_SECONDS = 10
GROWTH_BYTES = 16 * 2**20  # that a worker may have grown by at the end, beyond what it took when it was warm
ANSWER = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
GOOD = b'{"name":"good","vector":[1,2,3,4],"k":2}'

numbers = st.one_of(
    st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.sampled_from(["0", "-0.0", "1e30", "-1e30", "5e-324", "2.2e-308", "1e400", "-1e400", "1e-400", "9" * 400]),
    st.sampled_from(["9" * 5000, "true", "null", '"1"', "[]", "{}", "01", "1.", ".5", "+1", "0x10", "1e", "--1", ""]),
)
vectors = st.one_of(
    st.lists(numbers, min_size=DIMENSION, max_size=DIMENSION),
    st.lists(numbers, max_size=2 * DIMENSION),
    st.lists(st.sampled_from(["1e30", "5e-324", "1", "-2.5"]), min_size=DIMENSION, max_size=DIMENSION),
    st.lists(st.just("0"), min_size=DIMENSION, max_size=DIMENSION),
).map(lambda members: f"[{','.join(members)}]")
nested = st.builds(
    lambda depth, opening, inner: opening[0] * depth + inner + opening[1] * depth,
    st.sampled_from([2, 50, 900, 1100, 20_000]),
    st.sampled_from([("[", "]"), ('{"a":', "}")]),
    st.sampled_from(["", "1", "[1,2,3,4]"]),
)
texts = st.one_of(
    st.text(max_size=20).map(json.dumps),
    st.sampled_from([r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"unended', r'"\x"', '"' + "x" * 100_000 + '"']),
)
values = st.one_of(numbers, vectors, nested, texts)
users = st.one_of(
    st.builds(lambda vector: f'{{"name":"u","vector":{vector}}}', st.one_of(vectors, nested, values)),
    st.dictionaries(
        st.sampled_from(["name", "vector", "k", "exclude", "likes", r"\ud800", ""]), values, max_size=5
    ).map(lambda fields: "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"),
    st.builds(
        lambda k, exclude: f'{{"name":"u","vector":[1,2,3,4],"k":{k},"exclude":{exclude}}}',
        st.one_of(st.integers(-2, 1002).map(str), values),
        st.one_of(st.lists(texts, max_size=4).map(lambda ids: f"[{','.join(ids)}]"), values),
    ),
    values,
)
arrays = st.lists(users, max_size=6).map(lambda members: f"[{','.join(members)}]")


@st.composite
def damaged(draw: st.DrawFn, bodies: SearchStrategy[str]) -> bytes:
    """A body as it is, cut off, with bytes replaced, sent twice encoded, or in another encoding."""
    text = draw(bodies)
    body = text.encode(errors="surrogatepass")
    kind = draw(st.sampled_from(["whole", "whole", "cut", "bytes", "encoded", "utf-16", "bom"]))
    if kind == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if kind == "bytes":
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at + draw(st.integers(0, 4)) :]
    if kind == "encoded":
        return json.dumps(text).encode()
    if kind == "utf-16":
        return text.encode("utf-16", errors="surrogatepass")
    return b"\xef\xbb\xbf" + body if kind == "bom" else body


def anything(bodies: SearchStrategy[str]) -> SearchStrategy[bytes]:
    return st.one_of(damaged(bodies), damaged(bodies), st.binary(max_size=60))


@st.composite
def lines_around_a_good_user(draw: st.DrawFn) -> tuple[bytes, int]:
    """NDJSON with bad lines and blank ones, and at which line that is not blank the good user stands."""
    bad = st.lists(anything(users).map(lambda line: line.replace(b"\n", b"")), max_size=4)
    before, after = draw(bad), draw(bad)
    body = b"\n".join([*before, GOOD, *after]) + draw(st.sampled_from([b"", b"\n", b"\r\n\n"]))
    return body, len([line for line in before if line.strip()])


@st.composite
def array_around_a_good_user(draw: st.DrawFn) -> tuple[bytes, int]:
    """A JSON array of JSON values, NaN and huge numbers among them, and where in it the good user stands."""
    is_json = st.one_of(users, values).filter(reads_as_json)
    before, after = (draw(st.lists(is_json, max_size=4)) for _ in range(2))
    text = ",".join([*before, GOOD.decode(), *after])
    return f"[{text}]".encode(errors="surrogatepass"), len(before)


def reads_as_json(text: str) -> bool:
    if text.count("[") + text.count("{") > 500:
        return False  # deeper than what every reader takes
    try:
        json.loads(text, parse_int=float)
    except ValueError:
        return False
    return True


@dataclass
class Fuzzed:
    """A server, its document, and what it has answered so far."""

    server: Server
    api: schemathesis.schemas.BaseSchema
    session: requests.Session
    good: bytes = b""
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)

    def check(self, kind: str, path: str, body: bytes, media_type: str) -> requests.Response:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        response = self.session.post(url, body, headers={"Content-Type": media_type}, timeout=HANG_SECONDS)
        self.api[path]["POST"].Case(media_type=media_type).validate_response(response, checks=ANSWER)
        self._count(kind, response.status_code)
        return response

    def check_case(self, case: schemathesis.Case, check: Any) -> None:
        url = f"http://127.0.0.1:{self.server.port}"
        response = case.call(base_url=url, session=self.session, timeout=HANG_SECONDS)
        # No schema tells base64 of finite numbers from other text of its length, names the fields of a build, or wants
        # one of two parameters.
        is_unsure = bool(
            re.search(r'\\?"(vector\\?": *\\?"|filter|fields|max_per)', json.dumps(case.body, default=str))
        )
        is_unsure = is_unsure or (case.path == "/products" and not {"prefix", "contains"} & {*(case.query or ())})
        case.validate_response(response, checks=ANSWER if is_unsure else [*ANSWER, check])
        self._count("schemathesis", response.status_code)

    def check_batch(self, kind: str, body: bytes, place: int, media_type: str) -> None:
        """The good user's answer stands at its place, and the failed users are counted."""
        response = self.check(kind, "/batch", body, media_type)
        assert response.status_code == 200, response.text
        results = response.content.splitlines() if media_type == NDJSON else response.json()
        if media_type == NDJSON:
            assert results[place] == self.good
            results = [json.loads(line) for line in results]
        assert results[place] == json.loads(self.good)
        assert response.headers["X-Batch-Errors"] == str(sum("error" in result for result in results))

    def _count(self, kind: str, status: int) -> None:
        self.kinds[kind] += 1
        self.statuses[status] += 1


def workers(server: Server) -> list[int]:
    listing = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(word) for word in listing.read_text().split()]


def private_bytes(worker: int) -> int:
    """Memory that is the worker's own: what it maps of a build is not."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


@contextmanager
def fuzzing(directory: Path) -> Iterator[Fuzzed]:
    """At the end, every worker must still be the one that it was."""
    catalogue = products_of(np.random.default_rng(7).normal(size=(300, DIMENSION)))
    root = directory / "artifacts"
    build(BuildRequest(products=write_lines(directory / "products.jsonl", catalogue), out=root))
    with serving(root, RECO_WORKERS="2", RECO_MAX_BATCH="20") as server, requests.Session() as session:
        api = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        fuzzed, before = Fuzzed(server, api, session), workers(server)
        fuzzed.good = fuzzed.check("good", "/infer", GOOD, JSON).content
        yield fuzzed
        assert fuzzed.check("good", "/infer", GOOD, JSON).content == fuzzed.good
        assert workers(server) == before
        assert not [line for line in server.log if "unexpected error" in line or "is started again" in line]


def fuzz(fuzzed: Fuzzed, share: int, derandomize: bool) -> None:
    """Try about twelve times `share` cases, which fail with the smallest example found."""

    def tries(examples: int) -> settings:
        return settings(
            max_examples=examples,
            derandomize=derandomize,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )

    @tries(2 * share)
    @given(anything(users))
    def one_user(body: bytes) -> None:
        fuzzed.check("infer", "/infer", body, JSON)

    @tries(2 * share)
    @given(anything(arrays), st.sampled_from([JSON, NDJSON, "text/plain", "application/json; charset=utf-16"]))
    def many_users(body: bytes, media_type: str) -> None:
        url_type = NDJSON if media_type == NDJSON else JSON
        response = fuzzed.check("batch", "/batch", body, media_type)
        assert response.headers["Content-Type"] in (url_type, "application/problem+json")

    @tries(2 * share)
    @given(lines_around_a_good_user())
    def lines(case: tuple[bytes, int]) -> None:
        fuzzed.check_batch("good line among bad", *case, NDJSON)

    @tries(2 * share)
    @given(array_around_a_good_user())
    def members(case: tuple[bytes, int]) -> None:
        fuzzed.check_batch("good member among bad", *case, JSON)

    for test in (one_user, many_users, lines, members):
        test()

    for found in fuzzed.api.get_all_operations():
        assert isinstance(found, Ok), found.err()
        operation = found.ok()
        if operation.body:
            try_described(fuzzed, operation, GenerationMode.NEGATIVE, tries(share))
        limits = tries(share if operation.body else max(1, share // 12))
        try_described(fuzzed, operation, GenerationMode.POSITIVE, limits)


def can_be_told_by_a_schema(case: schemathesis.Case) -> bool:
    """Return whether JSON Schema and the service agree on what the body is.

    JSON Schema takes 10.0 for an integer, as the service does not; and to it a number just beyond the greatest float
    is too great, while reading it rounds it down.
    """
    if not isinstance(case.body, dict):
        return True
    vector = case.body.get("vector")
    integers = [number for number in vector if type(number) is int] if isinstance(vector, list) else []
    rounded_down = any(GREATEST_DECIMAL < abs(number) < FIRST_BEYOND for number in integers)
    return type(case.body.get("k")) is not float and not rounded_down


def try_described(fuzzed: Fuzzed, operation: APIOperation, mode: GenerationMode, limits: settings) -> None:
    """Send what the document allows, which must be accepted, or what it does not, which `/infer` must refuse."""
    # A batch takes any value for a member, and NDJSON any line.
    may_reject = operation.path == "/infer" and mode == GenerationMode.NEGATIVE
    check = negative_data_rejection if may_reject else positive_data_acceptance
    if operation.path in ("/similar", "/map", "/v2/models/reco/infer"):  # whose ids and tensors a schema cannot judge
        check = not_a_server_error

    @limits
    @given(operation.as_strategy(generation_mode=mode).filter(can_be_told_by_a_schema))
    def described(case: schemathesis.Case) -> None:
        fuzzed.check_case(case, check)

    described()


@pytest.mark.parametrize("share", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_bad_input_gets_the_answers_that_the_document_allows(tmp_path: Path, share: int) -> None:
    with fuzzing(tmp_path) as fuzzed:
        fuzz(fuzzed, share, derandomize=True)
    check_and_record(fuzzed, "bad input, quick", 11 * share)


@pytest.mark.soak
def test_thousands_of_bad_inputs_leave_the_workers_as_small_as_they_were(tmp_path: Path) -> None:
    with fuzzing(tmp_path) as fuzzed:
        fuzz(fuzzed, share=40, derandomize=True)  # until everything has been used once
        before = [private_bytes(worker) for worker in workers(fuzzed.server)]
        fuzz(fuzzed, share=300, derandomize=False)
        after = [private_bytes(worker) for worker in workers(fuzzed.server)]
    growth = [end - start for start, end in zip(before, after, strict=True)]
    check_and_record(
        fuzzed, "bad input", 2000, megabytes_before=max(before) / 2**20, megabytes_grown=max(growth) / 2**20
    )
    assert max(growth) < GROWTH_BYTES, growth


def check_and_record(fuzzed: Fuzzed, name: str, least: int, **figures: float) -> None:
    cases = sum(fuzzed.statuses.values())
    assert cases >= least, fuzzed.kinds
    assert min(fuzzed.statuses[status] for status in (200, 400, 422)) > 0, fuzzed.statuses
    statuses = {f"status_{status}": count for status, count in sorted(fuzzed.statuses.items())}
    record(name, cases=cases, server_errors=0, workers_lost=0, **statuses, **figures)
    print(name, cases, dict(fuzzed.kinds), statuses, figures)
