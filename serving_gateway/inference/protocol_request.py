"""Inference requests of the Open Inference Protocol: decoded, checked and packed, never passed on.

What Triton gets is written anew from what was checked here, so that nothing which two JSON
parsers may read differently (duplicate keys, escapes) and nothing unknown reaches it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import isfinite, isinf, isnan
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType, Feature, Scalar
from serving_gateway.errors import InvalidInput, MalformedRequest, TooLarge
from serving_gateway.inference.bodies import decode_json, encode_json
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.coerce import coerce_column
from serving_gateway.inference.tensors import FORMATS, InputSpec, Tensors, all_finite, pack

_OWN_PARAMETERS: Final = frozenset(["client_id", "binary_data_output"])
"""Parameters of a request that are the gateway's to act upon."""
_MAX_SEQUENCE_ID_BYTES: Final = 128
_SHARED_MEMORY: Final = "shared_memory"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Scalar | list[Scalar]] | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Head(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[_Output] | None = None


_head: Final = msgspec.json.Decoder(_Head)


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that a client asks for by name."""

    name: str
    is_binary: bool
    classification: int | None


class ProtocolRequest(msgspec.Struct, frozen=True):
    """An inference request whose JSON part was read; its tensors are packed for a version later.

    `tail` holds the members of the JSON head that only Triton can act upon; a request with some
    goes alone. `outputs` is None where the client wants all of them.
    """

    head: _Head
    body: memoryview
    """What follows the JSON part."""
    id: str | None
    client_id: str | None
    is_binary: bool
    """Whether outputs that are not named are wanted as binary tensors."""
    outputs: tuple[WantedOutput, ...] | None
    tail: bytes | None


def read_request(body: bytes, header_length: int | None) -> ProtocolRequest:
    """Read the JSON part of an inference request.

    Args:
        body: JSON, followed by binary tensors when `header_length` is given.
        header_length: bytes of the JSON part.

    Raises:
        MalformedRequest: it is not valid JSON, or shorter than announced.
        InvalidInput: it is not an inference request, or asks for what is not supported.
    """
    if header_length is not None and header_length > len(body):
        raise MalformedRequest(
            f"The JSON part is announced with {header_length} bytes; the body has {len(body)}."
        )
    text = body if header_length is None else body[:header_length]
    if not text.isascii():
        _check_utf8(text)  # also in members that are not read
    head = decode_json(text, _head)
    parameters = head.parameters or {}
    client_id = parameters.get("client_id")
    outputs = _wanted(head.outputs)
    for i, tensor in enumerate(head.inputs):
        _check_own_memory(tensor.parameters, f"inputs[{i}]")
    return ProtocolRequest(
        head=head,
        body=memoryview(body)[len(text) :],
        id=head.id,
        client_id=client_id if isinstance(client_id, str) else None,
        is_binary=parameters.get("binary_data_output") is True,
        outputs=outputs,
        tail=_tail(parameters, outputs),
    )


def pack_tensors(request: ProtocolRequest, codec: Codec, max_rows: int) -> tuple[Tensors, int]:
    """The tensors of a request as a version's inputs, and the number of rows.

    Raises:
        InvalidInput: an input is missing, unknown, or does not fit; `field` says where.
        TooLarge: there are more rows than one request may have.
    """
    tensors = request.head.inputs
    specs = {spec.name: spec for spec in codec.inputs}
    packed: dict[str, bytes] = {}
    rows, at = 0, 0
    for i, tensor in enumerate(tensors):
        path = f"inputs[{i}]"
        spec = specs.get(tensor.name)
        if spec is None or tensor.name in packed:
            known = ", ".join(specs)
            raise InvalidInput(
                f"{path}.name is {tensor.name[:200]!r}; this model reads each of {known} once.",
                field=f"{path}.name",
                code="unknown_input",
            )
        count = _rows_of(tensor, spec, path)
        if packed and count != rows:
            raise _wrong_shape(tensor, spec, path)
        rows = count
        if rows > min(max_rows, codec.signature.max_batch_rows):
            raise TooLarge(
                f"{path} has {rows} rows; at most "
                f"{min(max_rows, codec.signature.max_batch_rows)} are taken in one request.",
                field=f"{path}.shape",
                code="too_many_rows",
            )
        size = (tensor.parameters or {}).get("binary_data_size")
        columns = codec.columns[spec.name]
        if size is None:
            packed[spec.name] = _pack_json(tensor, spec, columns, rows, path)
        else:
            data = _slice(request.body, at, size, path)
            at += len(data)
            _check_binary(data, spec, columns, rows, path)
            packed[spec.name] = bytes(data)
    if at != len(request.body):
        raise InvalidInput(
            f"The body holds {len(request.body)} bytes of binary tensors; the inputs name {at}.",
            field="inputs",
            code="wrong_length",
        )
    missing = [name for name in specs if name not in packed]
    if missing:
        raise InvalidInput(
            f"The input {missing[0]!r} is missing.", field="inputs", code="missing_input"
        )
    return tuple([packed[spec.name] for spec in codec.inputs]), rows


def _rows_of(tensor: _Tensor, spec: InputSpec, path: str) -> int:
    if tensor.datatype != spec.dtype:
        raise InvalidInput(
            f"{path}.datatype is {tensor.datatype[:200]!r}; {spec.name} is {spec.dtype.value}.",
            field=f"{path}.datatype",
            code="wrong_type",
        )
    shape = tensor.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != spec.width:
        raise _wrong_shape(tensor, spec, path)
    return shape[0]


def _wrong_shape(tensor: _Tensor, spec: InputSpec, path: str) -> InvalidInput:
    return InvalidInput(
        f"{path}.shape is {tensor.shape[:8]}; it must be [rows, {spec.width}], with the same "
        "positive number of rows in every input.",
        field=f"{path}.shape",
        code="wrong_shape",
    )


def _pack_json(
    tensor: _Tensor, spec: InputSpec, columns: Sequence[Feature], rows: int, path: str
) -> bytes:
    flat, is_nested = _flattened(tensor.data, spec.width, f"{path}.data")
    if len(flat) != rows * spec.width:
        raise InvalidInput(
            f"{path}.data has {len(flat)} elements; its shape needs {rows * spec.width}.",
            field=f"{path}.data",
            code="wrong_length",
        )
    if spec.dtype in {DType.FP32, DType.FP64} and set(map(type, flat)) == {float}:
        try:
            if all_finite(flat):
                return pack(spec.dtype, flat)
        except (OverflowError, struct.error):
            pass  # the careful way finds it again, with its place
    width = spec.width
    by_column = [
        coerce_column(flat[c::width], feature, _place(f"{path}.data", c, width, is_nested))
        for c, feature in enumerate(columns)
    ]
    return pack(spec.dtype, list(chain.from_iterable(zip(*by_column, strict=True))))


def _place(path: str, column: int, width: int, is_nested: bool) -> Callable[[int], str]:
    if is_nested:
        return lambda row: f"{path}[{row}][{column}]"
    return lambda row: f"{path}[{row * width + column}]"


def _flattened(data: Any, width: int, path: str) -> tuple[list[Any], bool]:
    """The elements in row-major order, and whether they came as rows."""
    if not isinstance(data, list):
        raise InvalidInput(f"{path} must be a list of elements.", field=path, code="wrong_type")
    if not data or not isinstance(data[0], list):
        return data, False
    for r, row in enumerate(data):
        if not isinstance(row, list) or len(row) != width:
            raise InvalidInput(
                f"{path}[{r}] must be a list of {width} elements.",
                field=f"{path}[{r}]",
                code="wrong_width",
            )
    return list(chain.from_iterable(data)), True


def _slice(body: memoryview, at: int, size: Any, path: str) -> memoryview:
    if type(size) is not int or not 0 <= size <= len(body) - at:
        raise InvalidInput(
            f"{path}.parameters.binary_data_size is not the length of a tensor in the body, which "
            f"has {len(body) - at} bytes left for it.",
            field=f"{path}.parameters.binary_data_size",
            code="wrong_length",
        )
    return body[at : at + size]


def _check_binary(
    data: memoryview, spec: InputSpec, columns: Sequence[Feature], rows: int, path: str
) -> None:
    """Hold a binary tensor to the same rules as JSON."""
    elements = rows * spec.width
    if spec.dtype is DType.BYTES:
        _check_texts(data, columns, elements, path)
        return
    code, size = FORMATS[spec.dtype]
    if len(data) != elements * size:
        raise InvalidInput(
            f"{path} has {len(data)} bytes; its shape and type need {elements * size}.",
            field=f"{path}.parameters.binary_data_size",
            code="wrong_length",
        )
    if spec.dtype is DType.BOOL and bytes(data).strip(b"\0\1"):
        raise InvalidInput(f"{path} has bytes that are not booleans.", field=path)
    if spec.dtype in {DType.FP32, DType.FP64}:
        _check_floats(data.cast(code).tolist(), columns, path)  # type: ignore[call-overload]  # the format is one of the table's


def _check_floats(flat: list[float], columns: Sequence[Feature], path: str) -> None:
    if isfinite(sum(flat)):
        return
    for at, value in enumerate(flat):
        feature = columns[at % len(columns)]
        if isinf(value):
            raise InvalidInput(
                f"{path}.data[{at}] is infinite; rows hold finite numbers.",
                field=f"{path}.data[{at}]",
                code="not_finite",
            )
        if isnan(value) and not feature.nullable:
            raise InvalidInput(
                f"{path}.data[{at}] is NaN; {feature.name} may not be missing.",
                field=f"{path}.data[{at}]",
                code="missing_value",
            )


def _check_texts(data: memoryview, columns: Sequence[Feature], elements: int, path: str) -> None:
    at = found = 0
    while at + 4 <= len(data) and found < elements:
        stop = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if stop > len(data):
            break
        try:
            text = str(data[at + 4 : stop], "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{path}.data[{found}] is not valid UTF-8.",
                field=f"{path}.data[{found}]",
                code="invalid_text",
            ) from error
        coerce_column((text,), columns[found % len(columns)], _element(path, found))
        at, found = stop, found + 1
    if at != len(data) or found != elements:
        raise InvalidInput(
            f"{path} does not hold exactly {elements} texts behind their lengths.",
            field=f"{path}.parameters.binary_data_size",
            code="wrong_length",
        )


def _element(path: str, at: int) -> Callable[[int], str]:
    return lambda _: f"{path}.data[{at}]"


def _wanted(outputs: list[_Output] | None) -> tuple[WantedOutput, ...] | None:
    if not outputs:
        return None
    found: list[WantedOutput] = []
    for i, output in enumerate(outputs):
        parameters = output.parameters or {}
        _check_own_memory(parameters, f"outputs[{i}]")
        classification = parameters.get("classification")
        if classification is not None and not _is_natural(classification):
            path = f"outputs[{i}].parameters.classification"
            raise InvalidInput(f"{path} must be {_COUNT[1]}.", field=path, code="out_of_range")
        found.append(
            WantedOutput(output.name, parameters.get("binary_data") is True, classification)
        )
    return tuple(found)


def _tail(parameters: Mapping[str, Any], outputs: tuple[WantedOutput, ...] | None) -> bytes | None:
    """The members of the JSON head that only Triton can act upon; None when there are none."""
    passed = {key: value for key, value in parameters.items() if key not in _OWN_PARAMETERS}
    classified = any(output.classification is not None for output in outputs or ())
    if not passed and not classified:
        return None
    for key, value in passed.items():
        path = f"parameters.{key[:200]}"
        fits, what = _TRITONS.get(key, _ANY)
        if not fits(value) or "\0" in key:
            raise InvalidInput(f"{path} must be {what}.", field=path, code="out_of_range")
        if not isinstance(value, (str, bool, int, float)) or (
            isinstance(value, float) and not isfinite(value)
        ):
            raise InvalidInput(
                f"{path} must be a text, a boolean or a finite number.",
                field=path,
                code="wrong_type",
            )
    passed["binary_data_output"] = True
    tail = b'"parameters":%b' % encode_json(passed)
    if outputs is not None:
        named = [
            {
                "name": output.name,
                "parameters": {"binary_data": True}
                if output.classification is None
                else {"binary_data": True, "classification": output.classification},
            }
            for output in outputs
        ]
        tail += b',"outputs":%b' % encode_json(named)
    return tail


def _check_own_memory(parameters: Mapping[str, Any] | None, path: str) -> None:
    if any(key.startswith(_SHARED_MEMORY) for key in parameters or ()):
        raise InvalidInput(
            f"{path} lies in shared memory, which is not reachable through the gateway; send the "
            "tensor itself.",
            field=path,
            code="shared_memory",
        )


def _check_utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"The JSON part is not valid UTF-8: {error}.") from error


def _is_natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_sequence_id(value: Any) -> bool:
    is_short = isinstance(value, str) and len(value.encode()) <= _MAX_SEQUENCE_ID_BYTES
    return is_short or _is_natural(value)


_Rule = tuple[Callable[[Any], bool], str]
_ANY: Final[_Rule] = (lambda _: True, "a name without NUL")
_COUNT: Final[_Rule] = (_is_natural, "a whole number that is not negative")
_FLAG: Final[_Rule] = (lambda value: isinstance(value, bool), "true or false")
_SEQUENCE: Final[_Rule] = (_is_sequence_id, "a whole number that is not negative, or a short text")
_TRITONS: Final[Mapping[str, _Rule]] = {
    **dict.fromkeys(("timeout", "priority"), _COUNT),
    **dict.fromkeys(("sequence_start", "sequence_end"), _FLAG),
    "sequence_id": _SEQUENCE,
}
"""Parameters that Triton reads itself: to another type it answers 500, as if it had failed."""
