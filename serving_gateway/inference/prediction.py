"""Predictions for rows in JSON or entities by id, by the version that is effective."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter, time_ns
from typing import Final

from serving_gateway.contract import FeatureSource, PredictRequest, PredictResponse
from serving_gateway.errors import BadUpstreamAnswer, GatewayError
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import LookupResult, rfc3339
from serving_gateway.inference.bodies import (
    FloatRequest,
    decode_prediction,
    encode_json,
    encode_list,
)
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.coerce import invalid_value
from serving_gateway.inference.dispatcher import Dispatcher, RoutedRequest, Sink
from serving_gateway.inference.entity_merge import merge_entities
from serving_gateway.inference.entity_request import (
    EntityRequest,
    is_entity_request,
    read_entities,
)
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.offload import LARGE_BYTES
from serving_gateway.inference.router import RoutingTarget
from serving_gateway.inference.rows import (
    VALUE_BYTES,
    RequestRows,
    check_count,
    entity_ids,
    features_disabled,
    merge_rows,
    named_entities,
    payload_rows,
)
from serving_gateway.inference.version_client import PREDICTION
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics
from serving_gateway.telemetry.samples import ModelSamples, Sample

_MAX_CLIENT_ID: Final = 256
"""Characters."""
_VALUE_SIZE: Final = 8
"""Bytes of a body that cost about as much as a stored value."""
_RESPONSE_START: Final = b'{"predictions":[],"probabilities":null,'
_NO_TIME: Final = b"null}"
"""How a response ends, whose last field is `features_as_of`."""


class Predictor:
    """Answers the predictions of one model; `features` or `samples` are None where switched off."""

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        mirror: Mirror,
        metrics: ModelMetrics,
        features: FeatureReader | None = None,
        samples: ModelSamples | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.mirror = mirror
        self.sources = metrics.sources
        self.features = features
        self.samples = samples
        self.max_rows = settings.max_rows
        self._request_seconds = settings.request_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, body: bytes, sink: Sink) -> Prediction:
        """Answer the JSON of a `PredictRequest`, unless the prediction is abandoned."""
        # Kept: to ask for it costs a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        arrived = loop.time()
        prediction = Prediction(self, sink, body, arrived, arrived + self._request_seconds)
        prediction.begin(len(body))
        return prediction


class Prediction(RoutedRequest):
    """One request for a prediction."""

    __slots__ = ("_body", "_codec", "_predictor", "_request", "_rows")

    def __init__(
        self, predictor: Predictor, sink: Sink, body: bytes, arrived: float, due: float
    ) -> None:
        super().__init__(predictor.dispatcher, sink, arrived, due)
        self._predictor = predictor
        self._body = body
        self._request: PredictRequest | FloatRequest
        self._rows: RequestRows
        self._codec: Codec

    def read(self) -> None:
        """Read the body by what production reads; `MalformedRequest` or `InvalidInput`."""
        production = self.dispatcher.router.table.production
        codec = None if production is None else production.client.codec
        floats = codec is not None and codec.float_rows
        self._request = request = decode_prediction(self._body, floats=floats)
        self.client_id = client_id = request.client_id
        if client_id is not None and len(client_id) > _MAX_CLIENT_ID:
            what = f"has {len(client_id)} characters; at most {_MAX_CLIENT_ID} are taken."
            raise invalid_value("client_id", what, code="too_long")

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Read the rows as this target's version wants them, and queue them."""
        client = target.client
        codec = client.codec if client.state.ready else None
        if codec is None:
            codec = client.usable(target.variant)
        request = self._request
        if type(request) is FloatRequest and not codec.float_rows:
            # Another version than the one whose rows were expected, maybe with exact integers.
            request = decode_prediction(self._body, floats=False)
        if isinstance(request, PredictRequest) and is_entity_request(request):
            self._look_up_entities(codec, request, target, deadline)
        elif isinstance(request, PredictRequest) and (
            request.entity_id is not None or request.entity_ids is not None
        ):
            self._look_up(codec, request, target, deadline)
        elif len(self._body) > LARGE_BYTES:
            queue = partial(self._queue, codec=codec, target=target, deadline=deadline)
            self.offload.run(
                len(self._body),
                partial(self._own_rows, codec, request),
                lambda rows: self.resume(rows, queue),
                deadline,
            )
        else:
            self._queue(self._own_rows(codec, request), codec, target, deadline)

    def _own_rows(self, codec: Codec, request: PredictRequest | FloatRequest) -> RequestRows:
        max_rows = self._predictor.max_rows
        if isinstance(request, PredictRequest):
            return payload_rows(codec, request, max_rows)
        data = request.data
        rows = len(data)
        if rows > 1:
            check_count(codec, "data", rows, max_rows)
        return RequestRows(codec.encode(data, are_floats=True), rows, FeatureSource.PAYLOAD, data)

    def _look_up(
        self, codec: Codec, request: PredictRequest, target: RoutingTarget, deadline: float
    ) -> None:
        features, max_rows = self._predictor.features, self._predictor.max_rows
        ids = entity_ids(codec, request, max_rows)
        service = codec.signature.feature_service
        if features is None or service is None:
            if request.data is None and request.instances is None:
                raise features_disabled(request, is_configured=features is not None)
            self._queue(payload_rows(codec, request, max_rows), codec, target, deadline)
            return

        def merge(found: list[LookupResult] | GatewayError) -> None:
            work = partial(merge_rows, codec, request, ids, found, max_rows)
            self._merge(work, len(ids), codec, target, deadline)

        # Also an error goes on: the request may have rows of its own to take instead.
        features.look_up(
            service,
            codec.names,
            ids,
            codec.nullable,
            lambda found: self.resume(None, lambda _: merge(found)),
        )

    def _look_up_entities(
        self, codec: Codec, request: PredictRequest, target: RoutingTarget, deadline: float
    ) -> None:
        """Read what the request names by key, and join it with what the caller sent."""

        def look_up(entities: EntityRequest) -> None:
            if not entities.wanted:
                merge(entities, [])
                return
            features, service = self._predictor.features, codec.signature.feature_service
            if features is None or service is None:
                raise features_disabled(request, is_configured=features is not None)
            features.look_up(
                service,
                codec.layout.stored,
                entities.wanted_ids,
                codec.nullable,
                lambda found: self.resume(None, lambda _: merge(entities, found)),
                entities.keys,
            )

        def merge(entities: EntityRequest, found: list[LookupResult] | GatewayError) -> None:
            work = partial(merge_entities, codec, entities, found)
            self._merge(work, len(entities.sent), codec, target, deadline)

        self.offload.run(
            len(self._body),
            partial(read_entities, codec, request, self._predictor.max_rows),
            lambda entities: self.resume(entities, look_up),
            deadline,
        )

    def _merge(
        self,
        work: Callable[[], RequestRows],
        count: int,
        codec: Codec,
        target: RoutingTarget,
        deadline: float,
    ) -> None:
        """Make rows of what was looked up and queue them; many values in a thread."""
        queue = partial(self._queue, codec=codec, target=target, deadline=deadline)
        size = len(self._body) + _VALUE_SIZE * count * codec.width
        self.offload.run(size, work, lambda rows: self.resume(rows, queue), deadline)

    def _queue(
        self, rows: RequestRows, codec: Codec, target: RoutingTarget, deadline: float
    ) -> None:
        batcher = target.client.batcher
        assert batcher is not None  # noqa: S101 -- there with the codec
        self._rows, self._codec = rows, codec
        kept = len(self._body) + VALUE_BYTES * rows.count * codec.width
        self.carry(rows.tensors, rows.count, PREDICTION, deadline, kept)
        self.sent_at = perf_counter()
        batcher.submit(self)

    def encode(self, outputs: InferenceOutputs, start: int, stop: int) -> tuple[ModelOutput, bytes]:
        """The output for these rows, and the response: its end is encoded once for a target."""
        output, target, source = outputs.predicted(), self.target, self._rows.source
        if stop - start != outputs.rows:
            output = output.part(start, stop)
        if not output.is_finite:
            raise BadUpstreamAnswer(
                f"{target.model_name} version {target.slot.version} predicted NaN or infinity "
                "for these rows, which JSON cannot hold.",
                code="not_finite_output",
            )
        tails = target.response_tails if self.fallback is None else {}
        tail = tails.get(source)
        if tail is None:
            tail = tails[source] = self._tail(source)
        as_of = self._rows.as_of
        if as_of is not None:
            tail = b'%b"%b"}' % (tail.removesuffix(_NO_TIME), rfc3339(as_of).encode())
        write = encode_json if len(outputs.body) <= LARGE_BYTES else encode_list
        return output, b'{"predictions":%b,"probabilities":%b,%b' % (
            write(output.predictions),
            write(output.probabilities),
            tail,
        )

    def answer(self, encoded: tuple[ModelOutput, bytes]) -> None:
        """Send the response; a client's request is counted, mirrored and maybe sampled."""
        output, body = encoded
        target, rows, predictor = self.target, self._rows, self._predictor
        if self.is_traffic:
            seconds = perf_counter() - self.sent_at
            target.stats.answer(seconds, rows.count)
            predictor.sources[rows.source] += 1
            if self.table.policy.mirror and not self.is_split:
                predictor.mirror.offer(self, rows, output, seconds)
            if predictor.samples is not None and predictor.samples.is_due():
                predictor.samples.offer(self._sample(output))
        if self.span is not None:
            self.span.answered(target.model_name, target.variant, target.slot.version)
        self.sink.succeed(body)

    def _sample(self, output: ModelOutput) -> Sample:
        target, rows = self.target, self._rows
        by = target.model_name, target.variant, target.slot.version, self._codec.signature
        answered = output.predictions, output.probabilities
        whose = rows.entities if rows.is_named else None
        if whose is None:
            whose = named_entities(self._request)
        return Sample(time_ns() // 1000, *by, rows.data, rows.instances, *answered, whose)

    def _tail(self, source: FeatureSource) -> bytes:
        target = self.target
        slot, generation = target.slot, self.table.record.generation
        versions = target.model_name, target.variant, slot.version, slot.run_id, generation
        response = PredictResponse([], None, *versions, source, self.fallback)
        return encode_json(response).removeprefix(_RESPONSE_START)
