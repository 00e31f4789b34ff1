"""Inference requests of the Open Inference Protocol: decoded, checked and packed, never forwarded.

Triton gets a new request, written from what was checked here, so that nothing unknown reaches it,
and nothing that two JSON parsers may read differently (duplicate keys, escapes).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from itertools import chain
from math import isfinite
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType, InferenceRequest, Tensor
from serving_gateway.errors import InvalidInput, MalformedRequest
from serving_gateway.inference.bodies import decode_json, encode_json
from serving_gateway.inference.codec import Codec, InputSpec
from serving_gateway.inference.coerce import coerce_elements, invalid_value
from serving_gateway.inference.rows import check_count
from serving_gateway.inference.tensors import FLOATS, FORMATS, Tensors, all_finite, split_texts

_OWN_PARAMETERS: Final = frozenset(["client_id", "binary_data_output"])
"""Request parameters that the gateway itself acts upon."""
_MAX_SEQUENCE_ID_BYTES: Final = 128


_head: Final = msgspec.json.Decoder(InferenceRequest)


class ProtocolRequest(msgspec.Struct, frozen=True):
    """An inference request whose JSON part was read; its tensors are packed for a version later.

    `tail` holds the members of the JSON head that only Triton can act upon; a request with a tail
    is never merged with others.
    """

    head: InferenceRequest
    body: memoryview
    """What follows the JSON part."""
    client_id: str | None
    tail: bytes | None


def read_request(body: bytes, header_length: int | None) -> ProtocolRequest:
    """Read the JSON part, of `header_length` bytes where binary tensors follow it.

    `MalformedRequest` when it is not valid JSON or too short; `InvalidInput` when it is not an
    inference request, or asks for what is not supported.
    """
    text = body[:header_length]
    if len(text) < (header_length or 0):
        raise MalformedRequest(
            f"The header announces a JSON part of {header_length} bytes; the body has {len(body)}."
        )
    try:
        text.decode()  # including members that are not read
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"The JSON part is not valid UTF-8: {error}.") from error
    head = decode_json(text, _head)
    for i, tensor in enumerate(head.inputs):
        _check_own_memory(tensor.parameters, f"inputs[{i}]")
    for i, output in enumerate(head.outputs or ()):
        _check_own_memory(output.parameters, f"outputs[{i}]")
    client_id = (head.parameters or {}).get("client_id")
    return ProtocolRequest(
        head,
        memoryview(body)[len(text) :],
        client_id if isinstance(client_id, str) else None,
        _tail(head),
    )


def pack_tensors(request: ProtocolRequest, codec: Codec, max_rows: int) -> tuple[Tensors, int]:
    """Pack the tensors as a version's inputs, and count rows; `InvalidInput` or `TooLarge`."""
    specs = {spec.name: spec for spec in codec.inputs}
    packed: dict[str, bytes] = {}
    body, rows = request.body, 0
    for i, tensor in enumerate(request.head.inputs):
        path = f"inputs[{i}]"
        spec = specs.get(tensor.name)
        if spec is None or tensor.name in packed:
            what = f"is {tensor.name[:200]!r}; this model reads each of {', '.join(specs)} once."
            raise invalid_value(f"{path}.name", what, code="unknown_input")
        rows = _count_rows(tensor, spec, rows, path)
        check_count(codec, path, rows, max_rows, f"{path}.shape")
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            packed[spec.name] = _pack_json(tensor.data, spec, rows, f"{path}.data")
        else:
            packed[spec.name] = _pack_binary(body, size, spec, rows, path)
            body = body[size:]
    if body:
        raise InvalidInput(
            f"The inputs do not name the last {len(body)} bytes of the body.",
            field="inputs",
            code="wrong_length",
        )
    for name in specs:
        if name not in packed:
            raise InvalidInput(
                f"The input {name!r} is missing.", field="inputs", code="missing_input"
            )
    return tuple([packed[name] for name in specs]), rows


def _count_rows(tensor: Tensor, spec: InputSpec, known: int, path: str) -> int:
    """The rows of a tensor, which must be as many as `known`, unless that is 0."""
    if tensor.datatype != spec.dtype:
        what = f"is {tensor.datatype[:200]!r}; {spec.name} is {spec.dtype.value}."
        raise invalid_value(f"{path}.datatype", what, code="wrong_type")
    shape, width = tensor.shape, len(spec.columns)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width or known not in {0, shape[0]}:
        raise invalid_value(
            f"{path}.shape",
            f"is {[*shape[:8]]}; it must be [rows, {width}], with the same positive number of rows "
            "in every input.",
            code="wrong_shape",
        )
    return shape[0]


def _pack_json(data: Any, spec: InputSpec, rows: int, path: str) -> bytes:
    width = len(spec.columns)
    if not isinstance(data, list):
        raise invalid_value(path, "must be a list of elements.", code="wrong_type")
    is_nested = bool(data) and isinstance(data[0], list)
    if is_nested:
        for r, row in enumerate(data):
            if not isinstance(row, list) or len(row) != width:
                what = f"must be a list of {width} elements."
                raise invalid_value(f"{path}[{r}]", what, code="wrong_width")
        data = list(chain.from_iterable(data))
    if len(data) != rows * width:
        what = f"has {len(data)} elements; its shape needs {rows * width}."
        raise invalid_value(path, what, code="wrong_length")

    def place(row: int, column: int) -> str:
        return f"{path}[{row}][{column}]" if is_nested else f"{path}[{row * width + column}]"

    return spec.pack(data, spec.columns, place)


def _pack_binary(body: memoryview, size: Any, spec: InputSpec, rows: int, path: str) -> bytes:
    """Hold the binary tensor at the start of `body` to the same rules as JSON."""
    field, width = f"{path}.parameters.binary_data_size", len(spec.columns)
    if type(size) is not int or not 0 <= size <= len(body):
        raise invalid_value(
            field,
            f"is not the length of a tensor in the body, which has {len(body)} bytes left for it.",
            code="wrong_length",
        )
    data, kind = body[:size], FORMATS.get(spec.dtype)
    flat: list[Any] = []
    if kind is None:
        flat = _texts(data, rows * width, field, path)
    elif size != rows * width * struct.calcsize(kind):
        what = f"is {size}, which is not what the tensor's shape and type need."
        raise invalid_value(field, what, code="wrong_length")
    elif spec.dtype is DType.BOOL and bytes(data).strip(b"\0\1"):
        raise InvalidInput(f"{path} has bytes that are not booleans.", field=path)
    elif spec.dtype in FLOATS:
        flat = data.cast(kind).tolist()  # type: ignore[call-overload]  # the format is one of the table's
        flat = [] if all_finite(flat) else flat

    def place(row: int, column: int) -> str:
        return f"{path}.data[{row * width + column}]"

    coerce_elements(flat, spec.columns, place, is_uniform=True)
    return bytes(data)


def _texts(data: memoryview, count: int, field: str, path: str) -> list[str]:
    try:
        parts = split_texts(data)
    except ValueError:
        parts = []
    if len(parts) != count:
        what = f"is not the length of exactly {count} texts behind their lengths."
        raise invalid_value(field, what, code="wrong_length")
    texts: list[str] = []
    for at, part in enumerate(parts):
        try:
            texts.append(part.decode())
        except UnicodeDecodeError:
            raise invalid_value(
                f"{path}.data[{at}]", "is not valid UTF-8.", code="invalid_text"
            ) from None
    return texts


def _tail(head: InferenceRequest) -> bytes | None:
    """The members of the JSON head that only Triton can act upon; None when there are none."""
    passed = {k: v for k, v in (head.parameters or {}).items() if k not in _OWN_PARAMETERS}
    outputs: list[dict[str, Any]] = []
    for i, output in enumerate(head.outputs or ()):
        parameters: dict[str, Any] = {"binary_data": True}
        classes = (output.parameters or {}).get("classification")
        if classes is not None:
            _check(_COUNT, classes, f"outputs[{i}].parameters.classification")
            parameters["classification"] = classes
        outputs.append({"name": output.name, "parameters": parameters})
    if not passed and not any("classification" in chosen["parameters"] for chosen in outputs):
        return None
    for key, value in passed.items():
        path = f"parameters.{key[:200]}"
        if (rule := _TRITON_RULES.get(key)) is not None:
            _check(rule, value, path)
        if "\0" in key:
            raise invalid_value(path, "must be a name without NUL.", code="out_of_range")
        if not (isfinite(value) if isinstance(value, float) else isinstance(value, (str, int))):
            raise invalid_value(
                path, "must be a text, a boolean or a finite number.", code="wrong_type"
            )
    members: dict[str, Any] = {"parameters": {**passed, "binary_data_output": True}}
    if outputs:
        members["outputs"] = outputs
    return encode_json(members)[1:-1]


def _check_own_memory(parameters: dict[str, Any] | None, path: str) -> None:
    if any(key.startswith("shared_memory") for key in parameters or ()):
        raise invalid_value(
            path,
            "lies in shared memory, which is not reachable through the gateway; send the tensor "
            "itself.",
            code="shared_memory",
        )


_Rule = tuple[Callable[[Any], bool], str]


def _check(rule: _Rule, value: Any, path: str) -> None:
    fits, what = rule
    if not fits(value):
        raise invalid_value(path, f"must be {what}.", code="out_of_range")


def _is_natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_sequence_id(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value.encode()) <= _MAX_SEQUENCE_ID_BYTES
    return is_short or _is_natural(value)


_COUNT: Final[_Rule] = (_is_natural, "a whole number that is not negative")
_FLAG: Final[_Rule] = (lambda value: isinstance(value, bool), "true or false")
_SEQUENCE: Final[_Rule] = (_is_sequence_id, "a whole number that is not negative, or a short text")
_TRITON_RULES: Final[Mapping[str, _Rule]] = {
    **dict.fromkeys(("timeout", "priority"), _COUNT),
    **dict.fromkeys(("sequence_start", "sequence_end"), _FLAG),
    "sequence_id": _SEQUENCE,
}
"""Parameters that Triton itself reads: a wrong type makes it answer 500, as if it had failed."""
