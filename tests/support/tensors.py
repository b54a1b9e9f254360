"""Inference requests of the Open Inference Protocol as its clients write them, and their answers as they read them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.api import Answer, Api

INFER = "/v2/models/reco/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
NAMES = ["best_ids", "best_scores", "best_names", "worst_ids", "worst_scores", "worst_names"]


@dataclass(frozen=True)
class Sent:
    """A body and the value of its header length, if it has binary data."""

    body: bytes
    header_length: str | None = None

    def to(self, api: Api) -> Answer:
        headers = {} if self.header_length is None else {HEADER_LENGTH: self.header_length}
        return api.request("POST", INFER, self.body, headers)


def as_json(vectors: NDArray[np.float32], flat: bool = False, **members: Any) -> Sent:
    """A request with its vectors in JSON; members are added to it."""
    data = (vectors.ravel() if flat else vectors).astype(float).tolist()
    return Sent(json.dumps({"inputs": [_tensor(vectors, data=data)], **members}).encode())


def as_binary(vectors: NDArray[np.float32], **members: Any) -> Sent:
    """A request with its vectors in binary form after the JSON."""
    data = vectors.astype("<f4").tobytes()
    tensor = _tensor(vectors, parameters={"binary_data_size": len(data)})
    header = json.dumps({"inputs": [tensor], **members}).encode()
    return Sent(header + data, str(len(header)))


def read_tensors(answer: Answer) -> dict[str, NDArray]:
    """The output tensors by name, of which the bytes after the JSON must be exactly the binary ones."""
    assert answer.status == 200, answer.body
    length = int(answer.headers.get(HEADER_LENGTH, len(answer.body)))
    assert (HEADER_LENGTH in answer.headers) == (answer.headers["Content-Type"] == "application/octet-stream")
    header, rest, tensors = json.loads(answer.body[:length]), answer.body[length:], {}
    assert header["model_name"] == "reco"
    for output in header["outputs"]:
        if "data" in output:
            assert "parameters" not in output
            elements = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            data, rest = rest[:size], rest[size:]
            elements = _texts(data) if output["datatype"] == "BYTES" else np.frombuffer(data, "<f4")
        kind = {"BYTES": object, "FP32": np.float32}[output["datatype"]]
        tensors[output["name"]] = np.array(elements, kind).reshape(output["shape"])
    assert rest == b""
    return tensors


def _tensor(vectors: NDArray[np.float32], **members: Any) -> dict[str, Any]:
    return {"name": "vectors", "datatype": "FP32", "shape": list(vectors.shape), **members}


def _texts(data: bytes) -> list[str]:
    texts = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        assert end <= len(data)
        texts.append(data[4:end].decode())
        data = data[end:]
    return texts
