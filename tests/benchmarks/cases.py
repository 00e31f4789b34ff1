"""The requests of the benchmark, and the rows of its table."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.wrk import Case

ROW = (5.1, 3.5, 1.4, 0.2)
PREDICT = b'{"data":[[5.1,3.5,1.4,0.2]],"client_id":"customer-17"}'
ENTITY = b'{"entity_id":{id},"client_id":"customer-17"}'
INFER = b'{"inputs":[{"name":"features","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}'
_BINARY_HEAD = (
    b'{"inputs":[{"name":"features","shape":[1,4],"datatype":"FP32",'
    b'"parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}}'
)
INFER_BINARY = _BINARY_HEAD + struct.pack("<4f", *ROW)
BINARY_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Inference-Header-Content-Length": str(len(_BINARY_HEAD)),
}
INFER_PATH = f"/v2/models/{DEFAULT_MODEL}/infer"

JSON_OFF = "raw Triton, JSON, dynamic batching off"
JSON_ON = "raw Triton, JSON, dynamic batching on"
BINARY_OFF = "raw Triton, binary, dynamic batching off"
BINARY_ON = "raw Triton, binary, dynamic batching on"
RAW = (JSON_OFF, JSON_ON, BINARY_OFF, BINARY_ON)
"""What a user has without a gateway; ratios are to the best of them in the same round."""
NOOP = "ceiling: no-op uvicorn application"
PASS_THROUGH = "ceiling: HAProxy to Triton, JSON, dynamic batching off"
YARDSTICK = "FastAPI + tritonclient.http.aio"
PREDICTIONS = "gateway, /predict"
SPLIT = "gateway, /predict, split 50 %"
MIRROR = "gateway, /predict, mirror 100 %"
ENTITY_SQLITE = "gateway, entity_id (SQLite)"
ENTITY_REDIS = "gateway, entity_id (Redis)"
V2_JSON = "gateway, /v2 JSON"
V2_BINARY = "gateway, /v2 binary"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers listen."""

    triton: str
    yardstick: str
    noop: str
    pass_through: str
    gateway: str
    """With Feast on SQLite, as `make up` has it."""
    gateway_redis: str
    """The same with Feast on Redis."""


@dataclass(frozen=True, slots=True)
class Step:
    """A case, and the traffic policy of the gateway that it needs; None: it needs none."""

    case: Case
    policy: tuple[str, float] | None = None


def steps(at: Addresses, batched: str, entities: int) -> list[Step]:
    """One round, in order: what is compared with each other follows each other.

    Args:
        at: addresses.
        batched: name of the model with dynamic batching.
        entities: ids that the feature stores know, from 1 on.
    """
    off = ("off", 0.0)
    plain = f"{at.triton}/v2/models/{DEFAULT_MODEL}/versions/1/infer"
    dynamic = f"{at.triton}/v2/models/{batched}/versions/1/infer"
    predict = f"{at.gateway}/predict"
    return [
        Step(Case(NOOP, f"{at.noop}/predict", PREDICT)),
        Step(Case(PASS_THROUGH, f"{at.pass_through}{INFER_PATH}", INFER)),
        Step(Case(JSON_OFF, plain, INFER)),
        Step(Case(V2_JSON, f"{at.gateway}{INFER_PATH}", INFER), off),
        Step(Case(BINARY_OFF, plain, INFER_BINARY, headers=BINARY_HEADERS)),
        Step(
            Case(V2_BINARY, f"{at.gateway}{INFER_PATH}", INFER_BINARY, headers=BINARY_HEADERS), off
        ),
        Step(Case(JSON_ON, dynamic, INFER)),
        Step(Case(BINARY_ON, dynamic, INFER_BINARY, headers=BINARY_HEADERS)),
        Step(Case(PREDICTIONS, predict, PREDICT), off),
        Step(Case(MIRROR, predict, PREDICT), ("mirror", 100.0)),
        Step(Case(SPLIT, predict, PREDICT), ("split", 50.0)),
        Step(Case(ENTITY_SQLITE, predict, ENTITY, entities), off),
        Step(Case(ENTITY_REDIS, f"{at.gateway_redis}/predict", ENTITY, entities)),
        Step(Case(YARDSTICK, f"{at.yardstick}/predict", PREDICT)),
    ]
