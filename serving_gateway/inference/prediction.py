"""Predictions for rows in JSON or entities by id, by the version that is effective."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Final

from serving_gateway.contract import FeatureSource, PredictRequest, PredictResponse
from serving_gateway.errors import BadUpstreamAnswer
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import rfc3339
from serving_gateway.inference.bodies import (
    FloatRequest,
    decode_prediction,
    encode_json,
    encode_list,
)
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.dispatcher import Dispatcher, RoutedRequest, Sink
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.offload import LARGE_BYTES
from serving_gateway.inference.router import RoutingTarget
from serving_gateway.inference.rows import (
    VALUE_BYTES,
    RequestRows,
    check_count,
    named_entities,
    payload_rows,
)
from serving_gateway.inference.stored_rows import Attempt, StoredRows, names_entities
from serving_gateway.inference.traffic import check_client_id
from serving_gateway.inference.version_client import PREDICTION
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics
from serving_gateway.telemetry.log_page import Entity
from serving_gateway.telemetry.prediction_log import PendingEntry

_RESPONSE_START: Final = b'{"predictions":[],"probabilities":null,'
_RESPONSE_END: Final = b',"prediction_id":""}'
_NO_TIME: Final = b"null}"
"""The end of a tail, whose last field is `features_as_of`."""

_Encoded = tuple[ModelOutput, bytes, InferenceOutputs, int]
"""The output and the response; all that Triton answered, and the request's first row there."""


class Predictor:
    """Answers the predictions of one model; `features` is None where switched off."""

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        mirror: Mirror,
        metrics: ModelMetrics,
        features: FeatureReader | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.mirror = mirror
        self.sources = metrics.sources
        self.stored_rows = StoredRows(features, dispatcher.offload, settings.max_rows)
        self.max_rows = settings.max_rows
        self._request_seconds = settings.request_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, body: bytes, sink: Sink) -> Prediction:
        """Answer the JSON of a `PredictRequest`, unless the prediction is abandoned."""
        # Cached: asking for it costs a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        arrived = loop.time()
        prediction = Prediction(self, sink, body, arrived, arrived + self._request_seconds)
        prediction.begin(len(body))
        return prediction


class Prediction(RoutedRequest):
    """One request for a prediction."""

    __slots__ = ("_body", "_predictor", "_request", "_rows")

    def __init__(
        self, predictor: Predictor, sink: Sink, body: bytes, arrived: float, due: float
    ) -> None:
        super().__init__(predictor.dispatcher, sink, arrived, due)
        self._predictor = predictor
        self._body = body
        self._request: PredictRequest | FloatRequest
        self._rows: RequestRows

    def read(self) -> None:
        """Read the body as production expects it; `MalformedRequest` or `InvalidInput`."""
        production = self.dispatcher.router.table.production
        codec = None if production is None else production.client.codec
        floats = codec is not None and codec.float_rows
        self._request = request = decode_prediction(self._body, floats=floats)
        self.client_id = request.client_id
        check_client_id(request.client_id, "client_id")

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Read the rows as this target's version expects them, and queue them."""
        client = target.client
        codec = client.codec if client.state.ready else None
        if codec is None:
            codec = client.require_codec(target.variant)
        request = self._request
        if type(request) is FloatRequest and not codec.float_rows:
            # Not the version whose rows were expected; it may need exact integers.
            request = decode_prediction(self._body, floats=False)
        if isinstance(request, PredictRequest) and names_entities(request):
            queue = partial(self._queue, codec=codec, target=target, deadline=deadline)
            attempt = Attempt(len(self._body), deadline, self.resume, queue)
            self._predictor.stored_rows.find(codec, request, attempt)
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

    def _queue(
        self, rows: RequestRows, codec: Codec, target: RoutingTarget, deadline: float
    ) -> None:
        batcher = target.client.batcher
        assert batcher is not None  # noqa: S101 -- there with the codec
        self._rows = rows
        kept = len(self._body) + VALUE_BYTES * rows.count * codec.width
        self.carry(rows.tensors, rows.count, PREDICTION, deadline, kept)
        self.sent_at = perf_counter()
        batcher.submit(self)

    def encode(self, outputs: InferenceOutputs, start: int, stop: int) -> _Encoded:
        """The output for these rows, and the response, whose end is encoded once per target."""
        output, target, source = outputs.model_output(), self.target, self._rows.source
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
            tail = b'%b"%b"}' % (tail[: -len(_NO_TIME)], rfc3339(as_of).encode())
        write = encode_json if len(outputs.body) <= LARGE_BYTES else encode_list
        ids = self.dispatcher.ids
        self.number = number = ids.next_number()
        body = b'{"predictions":%b,"probabilities":%b,"prediction_id":%b%d",%b' % (
            write(output.predictions),
            write(output.probabilities),
            ids.member,
            number,
            tail,
        )
        return output, body, outputs, start

    def answer(self, encoded: _Encoded) -> None:
        """Send the response; a client's request is counted, mirrored and maybe logged."""
        output, body, outputs, start = encoded
        target, rows, predictor = self.target, self._rows, self._predictor
        if self.is_traffic:
            seconds = perf_counter() - self.sent_at
            target.stats.answer(seconds, rows.count)
            if target.counter is not None:
                target.counter.answer(seconds)
            predictor.sources[rows.source] += 1
            entry = None
            model_log = self.dispatcher.log
            if model_log is not None and (model_log.takes_all or model_log.is_due()):
                log = target.log or self.open_log(model_log)
                entities = None if type(self._request) is FloatRequest else self._entities()
                answer = outputs.cached_log_answer or outputs.log_answer()
                entry = (
                    self.number,
                    self.rows,
                    self.sent_at,
                    seconds,
                    self.client_id,
                    entities,
                    self.size,
                    rows.as_of,
                    answer,
                    start,
                )
            if self.table.policy.mirror and not self.is_split:
                pending = None if entry is None else PendingEntry(log, entry)
                predictor.mirror.offer(self, rows, output, seconds, pending)
            elif entry is not None:
                log.put(*entry)
        if self.span is not None:
            self.span.record_version(target.model_name, target.variant, target.slot.version)
        self.sink.succeed(body)

    def _entities(self) -> Sequence[Entity] | None:
        """The entities of the rows; None if the request names none."""
        entities = self._rows.entities if self._rows.is_named else None
        return named_entities(self._request) if entities is None else entities

    def _tail(self, source: FeatureSource) -> bytes:
        target = self.target
        slot, generation = target.slot, self.table.record.generation
        versions = target.model_name, target.variant, slot.version, slot.run_id, generation
        response = PredictResponse([], None, *versions, source, self.fallback)
        text = encode_json(response).removeprefix(_RESPONSE_START)
        return text.removesuffix(_RESPONSE_END) + b"}"
