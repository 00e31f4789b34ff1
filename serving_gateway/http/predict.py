"""`POST /predict`, as raw ASGI: the path that every client's time goes through."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from serving_gateway.contract import PredictRequest
from serving_gateway.control.hosting import HostedModel
from serving_gateway.errors import InvalidInput, MalformedRequest
from serving_gateway.http.bodies import check_json, invalid
from serving_gateway.http.raw import encode
from serving_gateway.inference.batcher import Origin
from serving_gateway.inference.prediction import float_rows
from serving_gateway.inference.rows import FloatRequest

_floats: Final = msgspec.json.Decoder(FloatRequest)
_anything: Final = msgspec.json.Decoder(PredictRequest)


async def predict(
    plane: HostedModel, body: bytes, content_type: bytes | None, asked_by: Origin
) -> bytes:
    """Bytes of a request to bytes of an answer.

    Raises:
        GatewayError: see `DataPlane.predict` and `decode`.
    """
    check_json(content_type)
    # Only a body that cannot name an entity is worth reading the fast way.
    floats = b'"entity_id' not in body and float_rows(plane.router.table)
    request = _fast(body) if floats else decode(body)
    return encode(await plane.data_plane.predict(request, asked_by))


def _fast(body: bytes) -> PredictRequest | FloatRequest:
    """Read rows of plain numbers the fast way; anything else the careful way."""
    try:
        return _floats.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Named instances, or an error that the careful way describes better.
        return decode(body)


def decode(body: bytes) -> PredictRequest:
    """Read the body of a prediction with whatever values in its rows.

    Raises:
        MalformedRequest: it is not valid JSON; a NaN or infinity in it is named by its place.
        InvalidInput: it is JSON of another form; `field` says where.
    """
    try:
        return _anything.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(body, str(error)) from error
    except RecursionError as error:
        raise MalformedRequest("The body is nested too deeply.") from error


def _malformed(body: bytes, why: str) -> MalformedRequest | InvalidInput:
    """Look for the NaN or infinity that some encoders write though JSON has none."""
    strange: list[str] = []

    def note(text: str) -> Any:
        strange.append(text)
        return _Strange(text)

    try:
        found = json.loads(body, parse_constant=note)
    except (ValueError, RecursionError):
        return MalformedRequest(f"The body is not valid JSON: {why}.")
    if not strange:
        return MalformedRequest(f"The body is not valid JSON: {why}.")
    place = _find(found, "")
    return InvalidInput(
        f"{place} is {strange[0]}; rows must be finite numbers, and JSON has no {strange[0]}.",
        field=place,
        code="not_finite",
    )


class _Strange:
    """Stands for a NaN or infinity."""

    def __init__(self, text: str) -> None:
        self.text = text


def _find(value: Any, path: str) -> str | None:
    """Path of the first NaN or infinity."""
    if isinstance(value, _Strange):
        return path
    items: list[tuple[str, Any]] = []
    if isinstance(value, list):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
    for place, item in items:
        found = _find(item, place)
        if found is not None:
            return found
    return None
