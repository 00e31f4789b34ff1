"""JSON bodies of predictions, read fast where they are plain and with care where they are not."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Final, TypeVar

import msgspec

from serving_gateway.contract import EntityId, PredictRequest, Scalar
from serving_gateway.errors import InvalidInput, MalformedRequest
from serving_gateway.inference.offload import LARGE_BYTES

_FIELD: Final = re.compile(r"(?P<kind>unknown|missing required) field `(?P<name>[^`]*)`")
_OTHER_FORM: Final = re.compile(r"inputs|dataframe_\w+|instances\[\d+\]")
"""Fields in which the bodies of other servers' clients differ."""
_NAMELESS: Final = re.compile(r"(?P<part>entities|request|instances)(\[(?P<row>\d+)\])?\[\.\.\.\]")
"""The path of a value in an object, as the decoder reports it."""
_FORMS: Final = (
    "Send rows as `data`, lists of values in the order of the features, or as `instances`, objects "
    "with the features by name."
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NOT_JSON: Final = (b"NaN", b"Infinity")
_ELEMENTS_AT_ONCE: Final = 8_192
_SHOWN: Final = 200
"""Characters of a client's text that an error quotes."""


class FloatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A prediction for rows of plain numbers, which the JSON decoder checks as it reads them."""

    data: list[list[float]]
    client_id: str | None = None


_Body = TypeVar("_Body")

encode_json: Final = msgspec.json.Encoder().encode
"""JSON of a value of any msgspec type."""
_decode_floats: Final = msgspec.json.Decoder(FloatRequest).decode
_request: Final = msgspec.json.Decoder(PredictRequest)
_syntax: Final = msgspec.json.Decoder(msgspec.Raw)


def encode_list(values: list[Any] | None) -> bytes:
    """Encode a list as JSON, in parts, between which other threads can run."""
    if not values:
        return encode_json(values)
    if isinstance(values[0], list):
        parts = [encode_list(row) for row in values]
    else:
        starts = range(0, len(values), _ELEMENTS_AT_ONCE)
        parts = [encode_json(values[at : at + _ELEMENTS_AT_ONCE])[1:-1] for at in starts]
    return b"[%b]" % b",".join(parts)


def decode_prediction(body: bytes, *, floats: bool) -> PredictRequest | FloatRequest:
    """Read the body of `POST /predict`; `floats` says that its rows are probably plain floats.

    `MalformedRequest` when it is not valid JSON, `InvalidInput` with `field` for another form.
    """
    # Only a body that cannot name an entity is worth reading the fast way.
    if floats and b'"entit' not in body:
        try:
            return _decode_floats(body)
        except (ValueError, RecursionError):
            pass  # named instances, or an error that the careful path describes better
    try:
        return decode_json(body, _request)
    except InvalidInput as error:
        field = error.field or ""
        if nameless := _NAMELESS.fullmatch(field):
            place = _named_place(body, nameless["part"], nameless["row"]) or field
            message = f"{place}{error.message.removeprefix(field)}"
            raise InvalidInput(message, field=place, code=error.code) from error
        if _OTHER_FORM.fullmatch(field) is None:
            raise
        raise InvalidInput(f"{error.message} {_FORMS}", field=field, code=error.code) from error


def _named_place(body: bytes, part: str, row: str | None) -> str | None:
    """The path of the first wrong value, by its name, which the decoder does not report.

    None for a large body: to find it, all of its values would have to be built at once.
    """
    if len(body) > LARGE_BYTES:
        return None
    where = part if row is None else f"{part}[{row}]"
    # A duplicate part may hold something else here than what was refused.
    with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        content = msgspec.json.decode(body.removeprefix(_BYTE_ORDER_MARK))[part]
        for name, value in (content if row is None else content[int(row)]).items():
            try:
                msgspec.convert(value, EntityId if part == "entities" else Scalar)
            except msgspec.ValidationError:
                return f"{where}.{name[:_SHOWN]}"
    return None


def decode_json(body: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """Decode JSON to a type, also with NaN and Infinity; raises as `decode_prediction`."""
    body = body.removeprefix(_BYTE_ORDER_MARK)  # some shells write one
    try:
        try:
            return decoder.decode(body)
        except msgspec.ValidationError:
            raise
        except ValueError:
            if not any(word in body for word in _NOT_JSON):
                raise
        # Some encoders, tritonclient's among them, write missing numbers as NaN.
        plain = body
        for word in _NOT_JSON:
            plain = plain.replace(word, b"0")
        # Validated first: the other parser accepts lone surrogates, and builds any body in full.
        _syntax.decode(plain)
        decoder.decode(plain)
        return msgspec.convert(json.loads(body.decode()), decoder.type)
    except (ValueError, RecursionError) as error:
        raise unreadable_body(error) from error


def unreadable_body(error: ValueError | RecursionError) -> InvalidInput | MalformedRequest:
    """The error for a body that a decoder refused: `InvalidInput` for JSON of another form."""
    if isinstance(error, msgspec.ValidationError):
        return _invalid_body(error)
    if isinstance(error, RecursionError):
        return MalformedRequest("The body is nested too deeply.")
    return MalformedRequest(f"The body is not valid JSON: {str(error)[:_SHOWN]}.")


def _invalid_body(error: msgspec.ValidationError) -> InvalidInput:
    what, _, path = str(error).rpartition(" - at `$")
    if not what:
        what, path = path, ""
    path = path.rstrip("`").lstrip(".")
    if named := _FIELD.search(what):
        code = "unknown_field" if named["kind"] == "unknown" else "missing_field"
        field = f"{path}.{named['name'][:_SHOWN]}".lstrip(".")
        return InvalidInput(f"{what[:_SHOWN]}.", field=field, code=code)
    code = "out_of_range" if "out of range" in what else "wrong_type"
    return InvalidInput(
        f"{path or 'The body'}: {what[:_SHOWN]}.", field=path[:_SHOWN] or None, code=code
    )
