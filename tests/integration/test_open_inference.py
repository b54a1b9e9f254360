"""The Open Inference Protocol gives what `/infer` gives, as tensors."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import VERSION
from retrieval.artifact.build import Build
from retrieval.search.ranking import Neighbours
from service.recommender import Recommender
from service.settings import Limits
from tests.integration.conftest import ApiOver
from tests.support.api import JSON, Api, Fault, check_problem
from tests.support.engines import engine_of
from tests.support.fake_engine import EAST, NORTH, NORTH_EAST, WEST, FakeEngine, compass
from tests.support.oracle import Oracle
from tests.support.sample import SampleProducts
from tests.support.tensors import HEADER_LENGTH, INFER, NAMES, Sent, as_binary, as_json, read_tensors

EAST_AND_NORTH = np.array([[2, 0], [0, 3]], np.float32)
WAYS = pytest.mark.parametrize("write", [as_json, as_binary])
Write = Callable[..., Sent]


@pytest.fixture(scope="module")
def vectors(sample_users: list[dict[str, Any]]) -> NDArray[np.float32]:
    return np.array([user["vector"] for user in sample_users], np.float32)


@pytest.fixture(scope="module")
def small(api_over: ApiOver) -> Api:
    """Over products at four points of the compass."""
    return api_over(Recommender(compass()))


def refuse(answer_to: Sent, api: Api, status: int, detail: str, *faults: Fault) -> None:
    """Assert that this is refused in the words of both kinds of clients."""
    answer = answer_to.to(api)
    expected = answer.json
    assert expected.pop("error") == detail
    check_problem(type(answer)(answer.status, answer.headers, json.dumps(expected).encode()), status, detail, faults)


def changed(vectors: NDArray[np.float32] = EAST_AND_NORTH, **members: Any) -> Sent:
    """A JSON request whose tensor has members replaced, or left out where they are None."""
    value = json.loads(as_json(vectors).body)
    tensor = {**value["inputs"][0], **members}
    value["inputs"] = [{name: member for name, member in tensor.items() if member is not None}]
    return Sent(json.dumps(value).encode())


def test_the_server_says_what_it_speaks(api: Api) -> None:
    answer = api.get("/v2")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
    assert answer.json == {"name": "reco", "version": VERSION, "extensions": ["binary_tensor_data"]}


def test_the_model_says_which_tensors_it_takes_and_gives(api: Api) -> None:
    answer = api.get("/v2/models/reco")
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON)
    assert answer.json == {
        "name": "reco",
        "platform": "jetmlett_index",
        "inputs": [{"name": "vectors", "datatype": "FP32", "shape": [-1, 300]}],
        "outputs": [
            {"name": "best_ids", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "best_scores", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "best_names", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "worst_ids", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "worst_scores", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "worst_names", "datatype": "BYTES", "shape": [-1, -1]},
        ],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/reco/ready", {"name": "reco", "ready": True}),
        ("/v2/health/ready", {"status": "ready", "ready": True}),
        ("/v2/health/live", {"status": "live", "live": True}),
    ],
)
def test_health_has_the_members_that_the_protocol_names(api: Api, path: str, expected: dict[str, Any]) -> None:
    answer = api.get(path)
    assert (answer.status, answer.json) == (200, expected)


def test_the_model_is_not_ready_while_its_engine_does_not_answer(api_over: ApiOver) -> None:
    engine = FakeEngine(east=[1.0, 0.0])
    engine.is_available = False
    answer = api_over(Recommender(engine)).get("/v2/models/reco/ready")
    detail = "the search engine does not answer; try again in 1 s"
    assert (answer.status, answer.json["error"], answer.json["detail"]) == (503, detail, detail)


@WAYS
@pytest.mark.parametrize("binary", [False, True], ids=["to JSON", "to binary"])
@pytest.mark.parametrize("rows", [1, 2, 430])
def test_each_row_gets_what_its_user_gets_from_batch(
    api: Api, vectors: NDArray[np.float32], write: Write, binary: bool, rows: int
) -> None:
    tensors = read_tensors(write(vectors[:rows], parameters={"binary_data_output": binary}).to(api))
    users = [{"name": "", "vector": row} for row in vectors[:rows].astype(float).tolist()]
    answers = api.batch(json.dumps(users).encode()).json
    assert list(tensors) == NAMES
    for side in ("best", "worst"):
        for column, member in (("ids", "id"), ("names", "name"), ("scores", "score")):
            expected = [[match[member] for match in answer[side]] for answer in answers]
            kind = np.float32 if member == "score" else object
            np.testing.assert_array_equal(tensors[f"{side}_{column}"], np.array(expected, kind), strict=True)


@WAYS
@pytest.mark.parametrize("k", [1, 100])
def test_sample_users_get_exact_ids_scores_and_order(
    api: Api, sample_products: SampleProducts, vectors: NDArray[np.float32], write: Write, k: int
) -> None:
    tensors = read_tensors(write(vectors[:20], parameters={"k": k, "binary_data_output": True}).to(api))
    oracle = Oracle(sample_products.vectors)
    for row, vector in enumerate(vectors[:20]):
        for side in ("best", "worst"):
            positions = [sample_products.positions[identifier] for identifier in tensors[f"{side}_ids"][row]]
            scores = [round(float(score), 6) for score in tensors[f"{side}_scores"][row]]
            oracle.check(vector, side, positions, scores, k)
            names = [sample_products.rows[i]["name"] for i in positions]
            assert tensors[f"{side}_names"][row].tolist() == names


def test_a_small_answer_is_exactly_this(small: Api) -> None:
    answer = as_json(EAST_AND_NORTH, id="42", parameters={"k": 2}, outputs=[{"name": "best_ids"}]).to(small)
    assert answer.headers["Content-Type"] == JSON
    assert answer.json == {
        "model_name": "reco",
        "id": "42",
        "outputs": [
            {
                "name": "best_ids",
                "datatype": "BYTES",
                "shape": [2, 2],
                "data": ["east", "north_east", "north", "north_east"],
            }
        ],
    }


def test_a_small_binary_answer_is_exactly_this(small: Api) -> None:
    outputs = [
        {"name": "worst_scores", "parameters": {"binary_data": True}},
        {"name": "worst_ids", "parameters": {"binary_data": True}},
    ]
    answer = as_binary(EAST_AND_NORTH[:1], parameters={"k": 2}, outputs=outputs).to(small)
    header = (
        b'{"model_name":"reco","outputs":['
        b'{"name":"worst_scores","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}},'
        b'{"name":"worst_ids","datatype":"BYTES","shape":[1,2],"parameters":{"binary_data_size":17}}]}'
    )
    assert answer.body == header + b"\0\0\x80\xbf\0\0\0\0" + b"\4\0\0\0west" + b"\5\0\0\0north"
    assert answer.headers[HEADER_LENGTH] == str(len(header))
    assert answer.headers["Content-Type"] == "application/octet-stream"


@WAYS
def test_only_the_outputs_asked_for_come_in_the_order_and_form_asked_for(small: Api, write: Write) -> None:
    outputs = [
        {"name": "worst_names", "parameters": {"binary_data": False}},
        {"name": "best_scores"},
        {"name": "best_names", "parameters": {"binary_data": True}},
    ]
    answer = write(EAST_AND_NORTH, parameters={"k": 1, "binary_data_output": True}, outputs=outputs).to(small)
    header = json.loads(answer.body[: int(answer.headers[HEADER_LENGTH])])
    assert ["data" in output for output in header["outputs"]] == [True, False, False]
    tensors = read_tensors(answer)
    assert list(tensors) == ["worst_names", "best_scores", "best_names"]
    assert tensors["worst_names"].tolist() == [["the west"], ["the east"]]
    assert tensors["best_scores"].tolist() == [[1.0], [1.0]]
    assert tensors["best_names"].tolist() == [["the east"], ["the north"]]


def test_an_empty_list_of_outputs_means_all(small: Api) -> None:
    assert list(read_tensors(as_json(EAST_AND_NORTH, outputs=[]).to(small))) == NAMES


def test_flattened_data_means_the_same_as_rows(api: Api, vectors: NDArray[np.float32]) -> None:
    assert as_json(vectors[:5], flat=True).to(api).body == as_json(vectors[:5]).to(api).body


def test_json_numbers_are_taken_as_float32_holds_them(api: Api, vectors: NDArray[np.float32]) -> None:
    between = vectors[:200] * (1 + np.random.default_rng(0).normal(scale=1e-7, size=(200, 300)))
    tensor = {"name": "vectors", "datatype": "FP32", "shape": [200, 300], "data": between.tolist()}
    sent = Sent(json.dumps({"inputs": [tensor]}).encode())
    assert sent.to(api).body == as_json(between.astype(np.float32)).to(api).body


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 1e38])
def test_a_row_of_any_magnitude_has_a_direction(small: Api, scale: float) -> None:
    rows = np.array([[scale, 0], [0, -scale]], np.float32)
    for sent in (as_json(rows), as_binary(rows)):
        tensors = read_tensors(sent.to(small))
        assert tensors["best_ids"].tolist() == [
            ["east", "north_east", "north", "west"],
            ["east", "west", "north_east", "north"],
        ]
        np.testing.assert_array_equal(tensors["best_scores"], np.array([[1, 0.6, 0, -1], [0, 0, -0.8, -1]], np.float32))


@pytest.mark.parametrize("binary", [False, True])
def test_a_k_beyond_the_catalogue_gives_tensors_of_its_width(small: Api, binary: bool) -> None:
    tensors = read_tensors(as_binary(EAST_AND_NORTH, parameters={"k": 9, "binary_data_output": binary}).to(small))
    assert tensors["worst_ids"].tolist() == [
        ["west", "north", "north_east", "east"],
        ["east", "west", "north_east", "north"],
    ]


class ForgetfulEngine(FakeEngine):
    """Finds one product a side of the first user, two of the second, and so on, as an approximate engine may."""

    def search(self, unit_vectors: NDArray[np.float32], k: int) -> tuple[Neighbours, Neighbours]:
        sides = super().search(unit_vectors, k)
        for side in sides:
            side.positions[np.arange(k) > np.arange(len(unit_vectors))[:, None]] = -1
        return sides


@pytest.mark.parametrize("binary", [False, True])
def test_where_an_engine_has_found_fewer_the_tensors_are_filled_up(api_over: ApiOver, binary: bool) -> None:
    engine = ForgetfulEngine(east=EAST, north_east=NORTH_EAST, north=NORTH, west=WEST)
    sent = as_json(EAST_AND_NORTH, parameters={"k": 3, "binary_data_output": binary})
    tensors = read_tensors(sent.to(api_over(Recommender(engine))))
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "best_ids": [["east", "", ""], ["north", "north_east", ""]],
        "best_scores": [[1, 0, 0], [1, np.float32(0.8), 0]],
        "best_names": [["the east", "", ""], ["the north", "the north_east", ""]],
        "worst_ids": [["west", "", ""], ["east", "west", ""]],
        "worst_scores": [[-1, 0, 0], [0, 0, 0]],
        "worst_names": [["the west", "", ""], ["the east", "the west", ""]],
    }


@WAYS
@pytest.mark.parametrize("binary", [False, True])
def test_no_rows_get_tensors_without_rows(api: Api, write: Write, binary: bool) -> None:
    empty = np.empty((0, 300), np.float32)
    tensors = read_tensors(write(empty, parameters={"k": 7, "binary_data_output": binary}).to(api))
    assert [(name, tensor.shape) for name, tensor in tensors.items()] == [(name, (0, 7)) for name in NAMES]


@pytest.mark.parametrize("binary", [False, True])
def test_names_arrive_as_they_are(build_of: Callable[..., Build], api_over: ApiOver, binary: bool) -> None:
    names = ["Crème brûlée", "抹茶", '},{"score":1}', 'a","score":0.5}', "\\", "tab\tquote'"]
    build = build_of([{"id": f"№{i}", "name": name, "vector": [1, i]} for i, name in enumerate(names)])
    sent = as_json(EAST_AND_NORTH[:1], parameters={"binary_data_output": binary})
    tensors = read_tensors(sent.to(api_over(Recommender(engine_of(build)))))
    assert tensors["best_names"].tolist() == [names]
    assert tensors["best_ids"].tolist() == [[f"№{i}" for i in range(6)]]
    assert tensors["worst_names"].tolist() == [names[::-1]]


def test_members_that_nobody_knows_are_ignored(small: Api) -> None:
    more = as_json(EAST_AND_NORTH, parameters={"k": 1, "priority": 3, "sequence_id": "x"}, extra=[{}])
    assert more.to(small).body == as_json(EAST_AND_NORTH, parameters={"k": 1}).to(small).body


def test_k_defaults_to_that_of_the_service(api_over: ApiOver) -> None:
    api = api_over(Recommender(compass()), limits=Limits(default_k=3))
    assert as_json(EAST_AND_NORTH).to(api).body == as_json(EAST_AND_NORTH, parameters={"k": 3}).to(api).body
    assert read_tensors(as_json(EAST_AND_NORTH, parameters={}).to(api))["best_ids"].shape == (2, 3)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"name": "input"}, Fault("/inputs/0/name", "value", "inputs[0].name must be vectors")),
        ({"name": 7}, Fault("/inputs/0/name", "value", "inputs[0].name must be vectors")),
        ({"name": None}, Fault("/inputs/0/name", "missing", "inputs[0].name is missing")),
        ({"datatype": "FP64"}, Fault("/inputs/0/datatype", "value", "inputs[0].datatype must be FP32")),
        ({"datatype": None}, Fault("/inputs/0/datatype", "missing", "inputs[0].datatype is missing")),
        ({"shape": None}, Fault("/inputs/0/shape", "missing", "inputs[0].shape is missing")),
        ({"shape": [4]}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        ({"shape": [1, 2, 2]}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        ({"shape": [-1, 2]}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        ({"shape": [2.0, 2]}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        ({"shape": [True, 2]}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        ({"shape": "2,2"}, Fault("/inputs/0/shape", "shape", "inputs[0].shape must be [rows, 2]")),
        (
            {"shape": [2, 3]},
            Fault("/inputs/0/shape", "vector_dimension", "inputs[0].shape must be [rows, 2]: the rows have 3 numbers"),
        ),
        (
            {"shape": [3, 2]},
            Fault("/inputs/0/data", "shape", "inputs[0].data has 2 rows, the shape says 3 rows of 2 numbers"),
        ),
        (
            {"data": [1, 2, 3]},
            Fault("/inputs/0/data", "shape", "inputs[0].data has 3 numbers, the shape says 2 rows of 2 numbers"),
        ),
        ({"data": "AAAA"}, Fault("/inputs/0/data", "type", "inputs[0].data must be a list, not a string")),
        (
            {"data": None},
            Fault("/inputs/0", "missing", "inputs[0] must have data or, if it is binary, parameters.binary_data_size"),
        ),
        (
            {"data": [[1, 2], [1, 2, 3]]},
            Fault("/inputs/0/data/1", "vector_dimension", "row 1 of vectors has 3 numbers, 2 are expected"),
        ),
        (
            {"data": [[1, 2], [True, 2]]},
            Fault("/inputs/0/data/1/0", "vector_not_number", "row 1 of vectors, element 0, is a boolean, not a number"),
        ),
        (
            {"data": [1, 2, 3, "4"]},
            Fault("/inputs/0/data/3", "vector_not_number", "row 1 of vectors, element 1, is a string, not a number"),
        ),
        (
            {"data": [1, 2, [3], 4]},
            Fault("/inputs/0/data/2", "vector_not_number", "row 1 of vectors, element 0, is a list, not a number"),
        ),
        (
            {"parameters": {"binary_data_size": "16"}},
            Fault(
                "/inputs/0/parameters/binary_data_size",
                "type",
                "inputs[0].parameters.binary_data_size must be an integer",
            ),
        ),
        (
            {"parameters": {"binary_data_size": None}},
            Fault(
                "/inputs/0/parameters/binary_data_size",
                "null",
                "inputs[0].parameters.binary_data_size must not be null",
            ),
        ),
        (
            {"parameters": []},
            Fault("/inputs/0/parameters", "type", "inputs[0].parameters must be an object"),
        ),
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_is_refused_saying_where(small: Api, members: dict[str, Any], fault: Fault) -> None:
    refuse(changed(**members), small, 422, fault.detail, fault)


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"inputs": []}, Fault("/inputs", "value", "inputs must have one tensor, not 0")),
        ({"inputs": {}}, Fault("/inputs", "type", "inputs must be a list")),
        ({"inputs": None}, Fault("/inputs", "null", "inputs must not be null")),
        ({"inputs": [7]}, Fault("/inputs/0", "type", "inputs[0] must be an object")),
        ({"id": 7}, Fault("/id", "type", "id must be a string, not a number")),
        ({"parameters": {"k": 0}}, Fault("/parameters/k", "range", "parameters.k must be from 1 to 1000, not 0")),
        ({"parameters": {"k": 1001}}, Fault("/parameters/k", "range", "parameters.k must be from 1 to 1000, not 1001")),
        ({"parameters": {"k": "5"}}, Fault("/parameters/k", "type", "parameters.k must be an integer, not a string")),
        ({"parameters": 5}, Fault("/parameters", "type", "parameters must be an object")),
        (
            {"parameters": {"binary_data_output": 1}},
            Fault(
                "/parameters/binary_data_output",
                "type",
                "parameters.binary_data_output must be a boolean, not a number",
            ),
        ),
        (
            {"outputs": [{"name": "best_ids"}, {"name": "scores"}]},
            Fault("/outputs/1/name", "value", f"outputs[1].name must be {' or '.join(NAMES)}"),
        ),
        ({"outputs": [{}]}, Fault("/outputs/0/name", "missing", "outputs[0].name is missing")),
        (
            {"outputs": [{"name": "best_ids"}, {"name": "best_ids"}]},
            Fault("/outputs", "value", "outputs must not name a tensor twice"),
        ),
        (
            {"outputs": [{"name": "best_ids", "parameters": {"binary_data": "yes"}}]},
            Fault(
                "/outputs/0/parameters/binary_data",
                "type",
                "outputs[0].parameters.binary_data must be a boolean, not a string",
            ),
        ),
    ],
    ids=str,
)
def test_a_request_that_does_not_fit_is_refused_saying_where(small: Api, members: dict[str, Any], fault: Fault) -> None:
    refuse(as_json(EAST_AND_NORTH, **members), small, 422, fault.detail, fault)


def test_a_request_without_inputs_is_refused(small: Api) -> None:
    refuse(Sent(b"{}"), small, 422, "inputs is missing", Fault("/inputs", "missing", "inputs is missing"))


def test_a_request_that_is_no_object_is_refused(small: Api) -> None:
    refuse(
        Sent(b"[]"),
        small,
        422,
        "the request must be an object, not a list",
        Fault("", "type", "the request must be an object, not a list"),
    )


def test_two_inputs_are_refused(small: Api) -> None:
    value = json.loads(as_json(EAST_AND_NORTH).body)
    sent = Sent(json.dumps({"inputs": value["inputs"] * 2}).encode())
    detail = "inputs must have one tensor, not 2"
    refuse(sent, small, 422, detail, Fault("/inputs", "value", detail))


def test_every_fault_of_a_request_is_listed(small: Api) -> None:
    faults = [
        Fault("/parameters/k", "range", "parameters.k must be from 1 to 1000, not 0"),
        Fault("/inputs/0/name", "missing", "inputs[0].name is missing"),
        Fault("/inputs/0/datatype", "missing", "inputs[0].datatype is missing"),
        Fault("/inputs/0/shape", "missing", "inputs[0].shape is missing"),
    ]
    sent = Sent(b'{"inputs": [{}], "parameters": {"k": 0}}')
    refuse(sent, small, 422, "; ".join(fault.detail for fault in faults), *faults)


@pytest.mark.parametrize(
    ("values", "code", "detail", "element"),
    [
        ([0, 0], "vector_zero", "row 1 of vectors is all zeros, which has no direction", None),
        ([1, np.nan], "vector_not_finite", "row 1 of vectors, element 1, is not finite: nan", 1),
        ([-np.inf, 1], "vector_not_finite", "row 1 of vectors, element 0, is not finite: -inf", 0),
    ],
)
@pytest.mark.parametrize(("form", "place"), [("rows", "/data/1"), ("flat", "/data"), ("binary", "")])
def test_a_row_without_direction_fails_the_request_and_is_named(
    small: Api, values: list[float], code: str, detail: str, element: int | None, form: str, place: str
) -> None:
    rows = np.array([[1, 0], values, [0, 1]], np.float32)
    sent = as_binary(rows) if form == "binary" else as_json(rows, flat=form == "flat")
    if element is not None and form != "binary":
        place += f"/{element + (2 if form == 'flat' else 0)}"
    refuse(sent, small, 422, detail, Fault(f"/inputs/0{place}", code, detail))


@pytest.mark.parametrize(
    ("number", "code", "detail"),
    [
        ("1e39", "vector_not_finite", "row 0 of vectors, element 0, is not finite: inf"),
        ("1e400", "vector_not_finite", "row 0 of vectors, element 0, is not finite: inf"),
        (
            "-" + "9" * 309,
            "vector_not_finite",
            "row 0 of vectors, element 0, is not finite: an integer beyond float range",
        ),
    ],
    ids=["1e39", "1e400", "309 digits"],
)
def test_a_number_that_float32_cannot_hold_is_refused(small: Api, number: str, code: str, detail: str) -> None:
    body = changed(EAST_AND_NORTH[:1], data=[[4711, 1]]).body.replace(b"4711", number.encode())
    refuse(Sent(body), small, 422, detail, Fault("/inputs/0/data/0/0", code, detail))


def test_of_many_bad_rows_the_first_twenty_are_named_and_the_others_counted(small: Api) -> None:
    faults = [
        Fault("/inputs/0", "vector_zero", f"row {row} of vectors is all zeros, which has no direction")
        for row in range(1, 21)
    ]
    faults.append(Fault("/inputs/0", "vector_rows", "5 further rows of vectors are at fault"))
    rows = np.concatenate([EAST_AND_NORTH[:1], np.zeros((25, 2), np.float32)])
    refuse(as_binary(rows), small, 422, "; ".join(fault.detail for fault in faults), *faults)


@pytest.mark.parametrize("size", [0, 12, 15, 17, 24, -16, 2**62])
def test_a_binary_size_that_does_not_fit_the_shape_is_refused(small: Api, size: int) -> None:
    sent = as_binary(EAST_AND_NORTH)
    header = sent.body[: int(sent.header_length or 0)].replace(b'_size": 16', b'_size": %d' % size)
    detail = "inputs[0].parameters.binary_data_size must be 16, as the shape says"
    fault = Fault("/inputs/0/parameters/binary_data_size", "range", detail)
    refuse(Sent(header + sent.body[-16:], str(len(header))), small, 422, detail, fault)


@pytest.mark.parametrize("bytes_kept", [0, 1, 15])
def test_truncated_binary_data_is_refused(small: Api, bytes_kept: int) -> None:
    sent = as_binary(EAST_AND_NORTH)
    detail = f"{bytes_kept} bytes follow the JSON of the body, but the input tensor has 16 there"
    refuse(Sent(sent.body[: len(sent.body) - 16 + bytes_kept], sent.header_length), small, 400, detail)


def test_more_binary_data_than_the_tensor_has_is_refused(small: Api) -> None:
    sent = as_binary(EAST_AND_NORTH)
    detail = "17 bytes follow the JSON of the body, but the input tensor has 16 there"
    refuse(Sent(sent.body + b"\0", sent.header_length), small, 400, detail)


def test_binary_data_of_no_tensor_is_refused(small: Api) -> None:
    body = as_json(EAST_AND_NORTH).body
    detail = "4 bytes follow the JSON of the body, but the input tensor has 0 there"
    refuse(Sent(body + bytes(4), str(len(body))), small, 400, detail)


def test_binary_data_without_the_length_of_the_json_is_refused(small: Api) -> None:
    body = as_binary(EAST_AND_NORTH).body
    answer = Sent(body).to(small)
    assert answer.status == 400
    assert answer.json["error"] == answer.json["detail"]
    assert answer.json["detail"].startswith("the body is not ")


def test_data_both_in_json_and_in_binary_form_is_refused(small: Api) -> None:
    detail = "inputs[0] must have data or, if it is binary, parameters.binary_data_size"
    sent = changed(parameters={"binary_data_size": 16})
    refuse(Sent(sent.body + bytes(16), str(len(sent.body))), small, 422, detail, Fault("/inputs/0", "missing", detail))


@pytest.mark.parametrize("length", ["", "-1", "1e3", "0x10", "\N{SUPERSCRIPT TWO}", "9" * 5000, "12 13"])
def test_a_header_length_that_is_no_number_of_bytes_is_refused(small: Api, length: str) -> None:
    sent = Sent(as_binary(EAST_AND_NORTH).body, length)
    refuse(sent, small, 400, f"{HEADER_LENGTH} must be a number of bytes, not {length[:40]!r}")


@pytest.mark.parametrize("length", ["0", "8", str(10**17)])
def test_a_header_length_beyond_the_body_is_refused(small: Api, length: str) -> None:
    refuse(
        Sent(b'{"a":1}', length),
        small,
        400,
        f"{HEADER_LENGTH} is {length}, it must be from 1 to the 7 bytes of the body",
    )


def test_a_header_length_inside_the_json_is_refused(small: Api) -> None:
    sent = as_binary(EAST_AND_NORTH)
    answer = Sent(sent.body, str(int(sent.header_length or 0) - 1)).to(small)
    assert (answer.status, answer.json["error"][:20]) == (400, "the body is not JSON")


@WAYS
def test_more_rows_than_a_batch_may_have_are_refused_and_as_many_are_answered(api_over: ApiOver, write: Write) -> None:
    api = api_over(Recommender(compass()), limits=Limits(max_batch=2))
    rows = np.ones((3, 2), np.float32)
    assert write(rows[:2]).to(api).status == 200
    refuse(write(rows), api, 413, "the tensor has 3 rows, 2 are allowed")


def test_a_shape_of_any_size_costs_nothing(small: Api) -> None:
    refuse(changed(shape=[10**18, 2]), small, 413, f"the tensor has {10**18} rows, 10000 are allowed")


@WAYS
def test_rows_times_k_are_limited(api_over: ApiOver, write: Write) -> None:
    api = api_over(Recommender(compass()), limits=Limits(users_times_k=9))
    rows = np.ones((3, 2), np.float32)
    assert write(rows, parameters={"k": 3}).to(api).status == 200
    detail = "the batch asks for more than 9 matches a side (users x k)"
    refuse(write(rows, parameters={"k": 4}), api, 413, detail)


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/reco/versions/1/infer", "/v2/x"])
def test_an_unknown_model_is_not_found_in_the_words_of_the_protocol(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.status == 404
    assert answer.json["error"] == answer.json["detail"]


def test_other_paths_keep_their_problems(api: Api) -> None:
    assert "error" not in api.get("/v2x").json


def test_a_key_is_needed_but_for_readiness(served_api_over: ApiOver) -> None:
    api = served_api_over(api_keys=("secret",))
    assert api.get("/v2/models/reco/ready").status == 200
    for path in ("/v2", "/v2/models/reco"):
        answer = api.get(path)
        assert (answer.status, answer.json["error"]) == (401, answer.json["detail"])
    assert as_json(EAST_AND_NORTH).to(api).status == 401


def test_only_posts_are_inferences(api: Api) -> None:
    answer = api.get(INFER)
    assert (answer.status, set(answer.headers["Allow"].split(", "))) == (405, {"POST", "OPTIONS"})
