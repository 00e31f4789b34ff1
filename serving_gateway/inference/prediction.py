"""Predictions for rows in JSON or entities by id, by the version that is effective."""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import msgspec

from serving_gateway.contract import FeatureSource, PredictRequest, PredictResponse
from serving_gateway.errors import (
    BadUpstreamAnswer,
    FeaturesUnavailable,
    GatewayError,
    InvalidInput,
)
from serving_gateway.features.types import InvalidEntityIds, LookupResult
from serving_gateway.inference.bodies import decode_prediction, encode_json
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.dispatcher import Dispatcher, RoutedRequest
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from serving_gateway.inference.router import RoutingTarget
from serving_gateway.inference.rows import (
    VALUE_BYTES,
    FloatRequest,
    RequestRows,
    check_count,
    entity_ids,
    fallback_rows,
    features_off,
    invalid_ids,
    merged_rows,
    named_entities,
    names_entities,
    payload_rows,
)
from serving_gateway.inference.version_client import PREDICTION
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics
from serving_gateway.telemetry.samples import ModelSamples

if TYPE_CHECKING:
    from serving_gateway.features.reader import FeatureReader
    from serving_gateway.inference.mirror import Mirror
    from serving_gateway.telemetry.tracing import RequestSpan


class PredictionSink(Protocol):
    """Whoever waits for a prediction."""

    def succeed(self, body: bytes) -> None:
        """Take the JSON body of a `PredictResponse`."""

    def fail(self, error: GatewayError) -> None:
        """Take the reason why there is none."""


class Predictor:
    """Answers the predictions of one model.

    Args:
        settings: limits.
        dispatcher: routes them.
        mirror: gets copies under the mirror policy.
        metrics: counts.
        offload: reads large bodies.
        features: looks features up; None where that is switched off.
        samples: takes a share of what was answered; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        mirror: Mirror,
        metrics: ModelMetrics,
        offload: Offload,
        features: FeatureReader | None = None,
        samples: ModelSamples | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.mirror = mirror
        self.sources = metrics.sources
        self.offload = offload
        self.features = features
        self.samples = samples
        self.max_rows = settings.max_rows
        self._max_client_id = settings.max_client_id_chars
        self._request_seconds = settings.request_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self,
        body: bytes,
        sink: PredictionSink,
        traceparent: bytes | None = None,
        span: RequestSpan | None = None,
    ) -> Prediction:
        """Answer a request; `sink` is called once, unless the prediction is abandoned.

        Args:
            body: JSON of a `PredictRequest`.
            sink: gets the response or the error.
            traceparent: W3C trace context, valid by its form.
            span: the request's own, where it is traced.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        arrived = loop.time()
        prediction = Prediction(self, sink, body, arrived, arrived + self._request_seconds)
        prediction.traceparent = traceparent
        prediction.span = span
        if len(body) > LARGE_BYTES:
            self.offload.run(len(body), prediction.read, prediction.on_read)
            return prediction
        try:
            request = self.read(body)
        except GatewayError as error:
            prediction.reject(error)
            return prediction
        if request.client_id is None or len(request.client_id) <= self._max_client_id:
            prediction.request = request
            prediction.client_id = request.client_id
            self.dispatcher.dispatch(prediction)
        else:
            self.route(prediction, request)
        return prediction

    def read(self, body: bytes) -> PredictRequest | FloatRequest:
        """Read a body, by what the version in production reads.

        Raises:
            MalformedRequest, InvalidInput: it cannot be read; `field` says where.
        """
        production = self.dispatcher.router.table.production
        codec = None if production is None else production.client.codec
        return decode_prediction(body, floats=codec is not None and codec.float_rows)

    def route(self, prediction: Prediction, request: PredictRequest | FloatRequest) -> None:
        """Send a prediction whose body was read on its way."""
        client_id = request.client_id
        if client_id is not None and len(client_id) > self._max_client_id:
            prediction.reject(
                InvalidInput(
                    f"client_id has {len(client_id)} characters; at most {self._max_client_id} "
                    "are taken.",
                    field="client_id",
                    code="too_long",
                )
            )
            return
        prediction.request = request
        prediction.client_id = client_id
        self.dispatcher.dispatch(prediction)


class Prediction(RoutedRequest):
    """One request for a prediction."""

    __slots__ = ("_body", "_predictor", "_sent_rows", "_sink", "request")

    def __init__(
        self, predictor: Predictor, sink: PredictionSink, body: bytes, arrived: float, due: float
    ) -> None:
        super().__init__(predictor.dispatcher, arrived, due)
        self._predictor = predictor
        self._sink = sink
        self._body = body
        self._sent_rows: RequestRows
        self.request: PredictRequest | FloatRequest

    def read(self) -> PredictRequest | FloatRequest:
        """Read the body."""
        return self._predictor.read(self._body)

    def on_read(self, result: PredictRequest | FloatRequest | GatewayError) -> None:
        """Go on with a body that was read in a thread."""
        if self.is_finished:
            return
        if isinstance(result, GatewayError):
            self.reject(result)
        else:
            self._predictor.route(self, result)

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Read the rows as this target's version wants them, and queue them."""
        client = target.client
        codec = client.codec if client.state.ready else None
        if codec is None:
            codec = client.usable(target.variant)
        request = self.request
        if type(request) is FloatRequest and not codec.float_rows:
            # Another version than the one whose rows were expected, maybe with exact integers.
            request = decode_prediction(self._body, floats=False)
        if isinstance(request, PredictRequest) and names_entities(request):
            self._look_up(codec, request, target, deadline)
        elif len(self._body) > LARGE_BYTES:
            queue = partial(self._queue, target=target, deadline=deadline)
            self._predictor.offload.run(
                len(self._body),
                lambda: self._rows(codec, request),
                lambda rows: self.resume(rows, queue),
            )
        else:
            self._queue(self._rows(codec, request), target, deadline)

    def _rows(self, codec: Codec, request: PredictRequest | FloatRequest) -> RequestRows:
        max_rows = self._predictor.max_rows
        if isinstance(request, PredictRequest):
            return payload_rows(codec, request, max_rows)
        data = request.data
        rows = len(data)
        if rows > 1:
            check_count(codec, "data", rows, max_rows)
        return RequestRows(codec.encode_floats(data), rows, FeatureSource.PAYLOAD, data)

    def _look_up(
        self, codec: Codec, request: PredictRequest, target: RoutingTarget, deadline: float
    ) -> None:
        predictor = self._predictor
        ids = entity_ids(codec, request, predictor.max_rows)
        service = codec.signature.feature_service
        if predictor.features is None or service is None:
            if request.data is None and request.instances is None:
                raise features_off(request, is_configured=predictor.features is not None)
            self._queue(self._rows(codec, request), target, deadline)
            return

        queue = partial(self._queue, target=target, deadline=deadline)

        def done(result: list[LookupResult] | GatewayError) -> None:
            if not self.is_finished:
                self.resume(self._looked_up(codec, request, ids, result), queue)

        predictor.features.look_up(service, codec.names, ids, codec.nullable, done)

    def _looked_up(
        self,
        codec: Codec,
        request: PredictRequest,
        ids: list[int | str],
        result: list[LookupResult] | GatewayError,
    ) -> RequestRows | GatewayError:
        try:
            if isinstance(result, InvalidEntityIds):
                return invalid_ids(request, result)
            if isinstance(result, FeaturesUnavailable):
                return fallback_rows(codec, request, self._predictor.max_rows, result)
            if isinstance(result, GatewayError):
                return result
            return merged_rows(codec, request, result, ids)
        except GatewayError as error:
            return error

    def _queue(self, rows: RequestRows, target: RoutingTarget, deadline: float) -> None:
        batcher, codec = target.client.batcher, target.client.codec
        assert batcher is not None  # noqa: S101 -- there with the codec, which packed the rows
        assert codec is not None  # noqa: S101
        self._sent_rows = rows
        kept = len(self._body) + VALUE_BYTES * rows.count * codec.width
        self.carry(rows.tensors, rows.count, PREDICTION, deadline, kept)
        self.sent_at = perf_counter()
        batcher.submit(self)

    def deliver(self, outputs: InferenceOutputs, start: int, stop: int) -> None:
        """Answer with these rows of the outputs."""
        output = outputs.predicted()
        if stop - start != outputs.rows:
            output = output.part(start, stop)
        if not output.is_finite:
            raise BadUpstreamAnswer(
                f"{self.target.model_name} version {self.target.slot.version} predicted NaN or "
                "infinity for these rows, which JSON cannot hold.",
                code="not_finite_output",
            )
        target, rows, predictor = self.target, self._sent_rows, self._predictor
        seconds = perf_counter() - self.sent_at
        target.stats.answer(seconds, rows.count)
        predictor.sources[rows.source] += 1
        if self.span is not None:
            self.span.answered(target.model_name, target.variant, target.slot.version)
        if self.table.policy.mirror and not self.is_split:
            predictor.mirror.offer(self, rows, output, seconds)
        if predictor.samples is not None and predictor.samples.is_due():
            self._offer_sample(predictor.samples, rows, output)
        self._sink.succeed(self._response(output, rows.source))

    def _offer_sample(self, samples: ModelSamples, rows: RequestRows, output: ModelOutput) -> None:
        target = self.target
        codec = target.client.codec
        assert codec is not None  # noqa: S101 -- it has just answered
        samples.offer(
            target.model_name,
            target.variant,
            target.slot.version,
            codec.signature,
            rows.data,
            rows.instances,
            output.predictions,
            output.probabilities,
            named_entities(self.request),
        )

    def reject(self, error: GatewayError) -> None:
        """End with an error."""
        self.is_finished = True
        self._sink.fail(error)

    def _response(self, output: ModelOutput, source: FeatureSource) -> bytes:
        """The body: what is the same for every response of a target is encoded once."""
        target = self.target
        tail = target.response_tails.get(source) if self.fallback is None else None
        if tail is None:
            tail = self._tail(source)
            if self.fallback is None:
                target.response_tails[source] = tail
        return b'{"predictions":%b,"probabilities":%b,%b' % (
            encode_json(output.predictions),
            encode_json(output.probabilities),
            tail,
        )

    def _tail(self, source: FeatureSource) -> bytes:
        target = self.target
        response = PredictResponse(
            [],
            None,
            target.model_name,
            target.variant,
            target.slot.version,
            target.slot.run_id,
            self.table.record.generation,
            source,
            self.fallback,
        )
        fields = msgspec.structs.asdict(response)
        del fields["predictions"], fields["probabilities"]
        return encode_json(fields)[1:]
