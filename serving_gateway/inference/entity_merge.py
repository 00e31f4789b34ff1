"""Stored features and what the caller sent, joined to rows for one version; pure functions."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final

from serving_gateway.contract import FeatureSource
from serving_gateway.errors import EntityUnusable, GatewayError
from serving_gateway.features.types import (
    Gap,
    InvalidEntityIds,
    KeyMismatch,
    LookupResult,
    Status,
    oldest_time,
)
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.coerce import invalid_value
from serving_gateway.inference.entity_request import EntityRequest, list_names
from serving_gateway.inference.rows import RequestRows, abbreviate_id

_NOTHING: Final[frozenset[str]] = frozenset()


def merge_entities(
    codec: Codec, request: EntityRequest, lookups: list[LookupResult] | GatewayError
) -> RequestRows:
    """Make the rows of a request, given what the store has for its `wanted` ones.

    `EntityUnusable` where the store does not have what was not sent, `InvalidInput` for values and
    keys that are wrong, `FeaturesUnavailable` where the store does not answer.
    """
    if isinstance(lookups, GatewayError):
        raise _refusal(codec, request, lookups)
    results = dict(zip(request.wanted, lookups, strict=True))
    rows: list[list[Any]] = []
    times: list[float | None] = []
    for row, sent in enumerate(request.sent):
        result, given = results.get(row), request.overrides.get(row)
        if result is not None and result.values is not None and given is None:
            stored = result.values
            times.append(result.observed_at)
        else:
            stored = _stored_values(codec, request, row, result)
            times.append(None if result is None else result.oldest_without(given or _NOTHING))
        rows.append(codec.layout.row(stored, sent))

    def place(row: int, column: int) -> str:
        name = codec.names[column]
        is_sent = name in request.sent[row]
        return request.place("request" if is_sent else "entities", row, name)

    tensors = codec.encode(rows, place=place)
    return RequestRows(
        tensors,
        len(rows),
        _source(codec, request),
        rows,
        as_of=oldest_time(times),
        entities=request.ids,
        is_named=True,
    )


def _source(codec: Codec, request: EntityRequest) -> FeatureSource:
    if not codec.layout.stored or codec.signature.feature_service is None:
        return FeatureSource.PAYLOAD
    return FeatureSource.OVERRIDE if request.overrides else FeatureSource.FEAST


def _stored_values(
    codec: Codec, request: EntityRequest, row: int, result: LookupResult | None
) -> list[Any]:
    """A row's stored values, replaced by those that were sent."""
    given, sent = request.overrides.get(row, _NOTHING), request.sent[row]
    layout = codec.layout
    if result is None:
        return [sent[name] for name in layout.stored]
    for gap in result.gaps:
        _require_covered(request, row, gap, given)
    values = [*(result.values or result.stored or ())]
    for name in given:
        values[layout.positions[name]] = sent[name]
    return values


def _require_covered(request: EntityRequest, row: int, gap: Gap, given: Set[str]) -> None:
    """Refuse a row whose stored features are incomplete, unless the rest was sent."""
    lacking = [name for name in gap.missing if name not in given]
    if not lacking:
        return
    if gap.status is Status.UNNAMED:
        raise request.missing_key(row, gap.key, lacking)
    views = f"feature view{'s' if len(gap.views) > 1 else ''} {list_names(gap.views)}"
    why = {
        Status.UNKNOWN: f"is not in {views}",
        Status.EXPIRED: f"has values of {gap.event_timestamp} only, older than {views} allows",
        Status.INCOMPLETE: f"has no value for {list_names(lacking)} in {views}",
    }[gap.status]
    entity = abbreviate_id(request.entities[row].get(gap.key))
    raise EntityUnusable(
        f"{gap.key} {entity} {why}. To use values of your own instead, send "
        f"{list_names(lacking)} in request.",
        field=request.place("entities", row, gap.key),
        code=f"{gap.status}_entity",
    )


def _refusal(codec: Codec, request: EntityRequest, error: GatewayError) -> GatewayError:
    """The error of a look-up, with the place in the request that it is about."""
    if isinstance(error, InvalidEntityIds):
        row = request.wanted[error.position]
        place = request.place("entities", row, error.key)
        return EntityUnusable(f"{place} {error.why}", field=place, code=error.code)
    if isinstance(error, KeyMismatch) and not codec.signature.join_keys:
        place = request.place("entities", request.wanted[0], request.keys[0])
        what = f"is not a key of this model's features, which are read by {', '.join(error.keys)}."
        return invalid_value(place, what, code="unknown_key")
    return error
