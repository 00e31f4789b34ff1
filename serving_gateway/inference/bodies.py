"""JSON bodies of predictions, read fast where they are plain and with care where they are not."""

from __future__ import annotations

import json
import re
from typing import Final, TypeVar

import msgspec

from serving_gateway.contract import PredictRequest
from serving_gateway.errors import InvalidInput, MalformedRequest
from serving_gateway.inference.rows import FloatRequest

_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>[^`]*)`")
_MISSING: Final = re.compile(r"missing required field `(?P<name>[^`]*)`")
_NOT_JSON: Final = (b"NaN", b"Infinity")
_SHOWN: Final = 200
"""Characters of a client's text that an error repeats."""

encode_json: Final = msgspec.json.Encoder().encode
"""JSON of a value of any msgspec type."""
decode_floats: Final = msgspec.json.Decoder(FloatRequest).decode
_request: Final = msgspec.json.Decoder(PredictRequest)
_syntax: Final = msgspec.json.Decoder(msgspec.Raw)

_Body = TypeVar("_Body")


def decode_prediction(body: bytes, *, floats: bool) -> PredictRequest | FloatRequest:
    """Read the body of `POST /predict`.

    Args:
        body: of the request.
        floats: whether rows are expected to be plain numbers.

    Raises:
        MalformedRequest: it is not valid JSON.
        InvalidInput: it is JSON of another form; `field` says where.
    """
    # Only a body that cannot name an entity is worth reading the fast way.
    if floats and b'"entity_id' not in body:
        try:
            return decode_floats(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # named instances, or an error that the careful way describes better
    return decode_json(body, _request)


def decode_json(body: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """Read JSON by a type; NaN and Infinity are read too, though JSON has no such words.

    Raises:
        MalformedRequest: it is not valid JSON.
        InvalidInput: it is JSON of another form; `field` says where.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from error
    except RecursionError as error:
        raise MalformedRequest("The body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not any(word in body for word in _NOT_JSON):
            raise MalformedRequest(f"The body is not valid JSON: {error}.") from error
    # Some encoders, tritonclient's among them, write missing numbers as NaN.
    plain = body
    for word in _NOT_JSON:
        plain = plain.replace(word, b"0")
    try:
        # First, as the other reader takes lone surrogates, and builds all of a body of any form.
        _syntax.decode(plain)
        decoder.decode(plain)
        return msgspec.convert(json.loads(body.decode()), decoder.type)
    except msgspec.ValidationError as error:
        raise invalid_body(error) from error
    except RecursionError as error:
        raise MalformedRequest("The body is nested too deeply.") from error
    except ValueError as error:
        raise MalformedRequest(f"The body is not valid JSON: {str(error)[:_SHOWN]}.") from error


def invalid_body(error: msgspec.ValidationError) -> InvalidInput:
    """The error of a JSON body that has another form than the endpoint reads."""
    what, _, path = str(error).rpartition(" - at `$")
    if not what:
        what, path = path, ""
    path = path.rstrip("`").lstrip(".")
    for pattern, code in ((_UNKNOWN, "unknown_field"), (_MISSING, "missing_field")):
        named = pattern.search(what)
        if named is not None:
            name = named["name"][:_SHOWN]
            return InvalidInput(f"{what[:_SHOWN]}.", field=f"{path}.{name}".lstrip("."), code=code)
    code = "out_of_range" if "out of range" in what else "wrong_type"
    return InvalidInput(
        f"{path or 'The body'}: {what[:_SHOWN]}.", field=path[:_SHOWN] or None, code=code
    )
