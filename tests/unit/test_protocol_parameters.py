"""Parameters of inference requests: which reach Triton, and which no Triton could read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving_gateway.errors import InvalidInput
from serving_gateway.inference.protocol_request import ProtocolRequest, read_request


def read(**members: Any) -> ProtocolRequest:
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return read_request(json.dumps({"inputs": [tensor], **members}).encode(), None)


@pytest.mark.parametrize(
    "own",
    [
        *({key: 7} for key in ("timeout", "priority", "sequence_id")),
        {"sequence_id": "é" * 64, "sequence_start": True, "sequence_end": False},
    ],
)
def test_parameters_of_triton_are_passed_on(own: dict[str, Any]) -> None:
    tail = read(parameters={**own, "client_id": "c", "binary_data_output": True}).tail
    assert json.loads(b"{%b}" % (tail or b""))["parameters"] == {**own, "binary_data_output": True}
    assert read(parameters={"client_id": "c", "binary_data_output": True}).tail is None


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"timeout": -1}, "parameters.timeout"),
        ({"timeout": 2**64}, "parameters.timeout"),
        ({"priority": True}, "parameters.priority"),
        ({"sequence_start": 1}, "parameters.sequence_start"),
        ({"sequence_end": "true"}, "parameters.sequence_end"),
        ({"sequence_id": -1}, "parameters.sequence_id"),
        ({"sequence_id": True}, "parameters.sequence_id"),
        ({"sequence_id": 2**64}, "parameters.sequence_id"),
        ({"sequence_id": "é" * 65}, "parameters.sequence_id"),
        ({"own\0": 1}, "parameters.own\0"),
        ({"own": [1]}, "parameters.own"),
        ({"own": {"a": 1}}, "parameters.own"),
        ({"own": None}, "parameters.own"),
    ],
)
def test_parameter_that_triton_could_not_read_is_refused(
    parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(parameters=parameters)
    assert caught.value.field == field


def test_outputs_may_be_classified_and_are_then_asked_for_alone() -> None:
    plain = read(outputs=[{"name": "label", "parameters": {"binary_data": True}}])
    assert plain.tail is None
    classified = read(outputs=[{"name": "p", "parameters": {"classification": 2}}])
    assert b'"classification":2' in (classified.tail or b"")
    for wrong in (-1, True, "2", 2**70):
        with pytest.raises(InvalidInput):
            read(outputs=[{"name": "p", "parameters": {"classification": wrong}}])
