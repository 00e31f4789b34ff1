"""Rows from the feature store, for requests that name entities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from serving_gateway.contract import PredictRequest
from serving_gateway.errors import GatewayError
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import LookupResult
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.entity_merge import merge_entities
from serving_gateway.inference.entity_request import EntityRequest, read_entities
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from serving_gateway.inference.rows import (
    RequestRows,
    entity_ids,
    features_disabled,
    merge_rows,
    payload_rows,
)

_VALUE_SIZE: Final = 8
"""Bytes of a body that cost about as much as a stored value."""


class Attempt(NamedTuple):
    """An attempt to answer a request by one version."""

    size: int
    """Size of the body, in bytes."""
    due: float
    resume: Callable[[Any, Callable[[Any], None]], None]
    """Calls the function with a result, or ends the attempt with an error; see `RoutedRequest`."""
    queue: Callable[[RequestRows], None]
    """Takes the rows."""


def names_entities(request: PredictRequest) -> bool:
    """Whether rows are named by ids, by keys, or by what only the caller knows."""
    return (
        request.entity_id is not None
        or request.entity_ids is not None
        or request.entities is not None
        or request.request is not None
    )


@dataclass(slots=True, eq=False)
class StoredRows:
    """Finds the rows of one model's requests; `features` is None where there is no store."""

    features: FeatureReader | None
    offload: Offload
    max_rows: int

    def find(self, codec: Codec, request: PredictRequest, attempt: Attempt) -> None:
        """Look up what a request names, and queue its rows; raises if the request is wrong."""
        if request.entities is None and request.request is None:
            self._find_by_id(codec, request, attempt)
            return
        self.offload.run(
            attempt.size,
            partial(read_entities, codec, request, self.max_rows),
            lambda result: attempt.resume(
                result, lambda entities: self._find_by_keys(codec, request, entities, attempt)
            ),
            attempt.due,
        )

    def _find_by_id(self, codec: Codec, request: PredictRequest, attempt: Attempt) -> None:
        features, max_rows = self.features, self.max_rows
        ids = entity_ids(codec, request, max_rows)
        service = codec.signature.feature_service
        if features is None or service is None:
            if request.data is None and request.instances is None:
                raise features_disabled(request, is_configured=features is not None)
            attempt.queue(payload_rows(codec, request, max_rows))
            return

        def merge(result: list[LookupResult] | GatewayError) -> None:
            work = partial(merge_rows, codec, request, ids, result, max_rows)
            self._merge(work, len(ids), codec, attempt)

        # An error is passed on, too: the request may have rows of its own to use instead.
        features.look_up(
            service,
            codec.names,
            ids,
            codec.nullable,
            lambda result: attempt.resume(None, lambda _: merge(result)),
        )

    def _find_by_keys(
        self, codec: Codec, request: PredictRequest, entities: EntityRequest, attempt: Attempt
    ) -> None:
        def merge(result: list[LookupResult] | GatewayError) -> None:
            work = partial(merge_entities, codec, entities, result)
            self._merge(work, len(entities.sent), codec, attempt)

        if not entities.wanted:
            merge([])
            return
        features, service = self.features, codec.signature.feature_service
        if features is None or service is None:
            raise features_disabled(request, is_configured=features is not None)
        features.look_up(
            service,
            codec.layout.stored,
            entities.wanted_ids,
            codec.nullable,
            lambda result: attempt.resume(None, lambda _: merge(result)),
            entities.keys,
        )

    def _merge(
        self, work: Callable[[], RequestRows], count: int, codec: Codec, attempt: Attempt
    ) -> None:
        """Make rows of what was looked up, in a thread if there are many values, and queue them."""
        size = attempt.size + _VALUE_SIZE * count * codec.width
        if size <= LARGE_BYTES:
            attempt.queue(work())
            return
        self.offload.run(size, work, lambda rows: attempt.resume(rows, attempt.queue), attempt.due)
