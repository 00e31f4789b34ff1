"""The Open Inference Protocol for clients that speak it to Triton: routed like any prediction.

What the gateway adds is the version: the effective one of the client's variant, checked in the
answer (I2).
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from serving_gateway.contract import EffectiveModelMetadata, TensorDescription
from serving_gateway.errors import (
    GatewayError,
    NotFound,
    VariantUnavailable,
)
from serving_gateway.inference.dispatcher import Dispatcher, RoutedRequest
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from serving_gateway.inference.protocol_request import (
    ProtocolRequest,
    pack_tensors,
    read_request,
)
from serving_gateway.inference.protocol_response import ProtocolResponse, encode_response
from serving_gateway.inference.router import RoutingTarget
from serving_gateway.inference.rows import VALUE_BYTES
from serving_gateway.inference.tensors import Tensors
from serving_gateway.inference.traffic import A
from serving_gateway.inference.version_client import EVERY_OUTPUT
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.settings import Settings
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import TritonTensorMetadata

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import RequestSpan

NAME: Final = "serving-gateway"
EXTENSIONS: Final = ("binary_tensor_data", "statistics")


class InferenceSink(Protocol):
    """Whoever waits for an inference."""

    def respond(self, response: ProtocolResponse, variant: str, version: int) -> None:
        """Take the response, and who gave it."""

    def fail(self, error: GatewayError) -> None:
        """Take the reason why there is none."""


class OpenInference:
    """Answers the protocol's questions by the effective versions of one model.

    Args:
        settings: limits.
        dispatcher: routes inferences.
        offload: reads large bodies.
    """

    def __init__(self, settings: Settings, dispatcher: Dispatcher, offload: Offload) -> None:
        self.dispatcher = dispatcher
        self.offload = offload
        self.max_rows = settings.max_rows
        self._probe_seconds = settings.probe_seconds
        self._request_seconds = settings.request_seconds

    def target(self, model_name: str, version: int | None) -> RoutingTarget:
        """The variant that serves a model, or exactly a version of it.

        Raises:
            NotFound: no variant routes to it.
        """
        for target in self.dispatcher.router.table.targets.values():
            if target.model_name == model_name and version in {None, target.slot.version}:
                return target
        wanted = model_name if version is None else f"{model_name} version {version}"
        raise NotFound(
            f"The gateway does not route to {wanted}.",
            code="unknown_model" if version is None else "unknown_version",
        )

    async def metadata(self, model_name: str, version: int | None) -> EffectiveModelMetadata:
        """Triton's description of the effective version; `versions` are the effective ones.

        Raises:
            NotFound: no variant routes to it.
            Unavailable: Triton cannot be asked, or does not have it READY.
        """
        target = self.target(model_name, version)
        found = await target.client.triton.metadata(
            model_name, self._probe_seconds, target.slot.version
        )
        if found is None:
            raise VariantUnavailable(
                f"Triton does not have {model_name} version {target.slot.version} READY."
            )
        effective = {
            other.slot.version
            for other in self.dispatcher.router.table.targets.values()
            if other.model_name == model_name
        }
        return EffectiveModelMetadata(
            name=model_name,
            versions=tuple([str(number) for number in sorted(effective)]),
            platform=found.platform,
            inputs=_described(found.inputs),
            outputs=_described(found.outputs),
        )

    async def ask(self, model_name: str, version: int | None, what: str) -> TritonResponse:
        """Triton's answer to `config` or `stats` of the effective version, as it is.

        Raises:
            NotFound: no variant routes to it.
            Unavailable, DeadlineExceeded: Triton cannot be asked.
        """
        target = self.target(model_name, version)
        path = f"/v2/models/{model_name}/versions/{target.slot.version}/{what}"
        return await target.client.triton.get(path, self._probe_seconds)

    def submit(
        self,
        model_name: str,
        version: int | None,
        client_id: str | None,
        body: bytes,
        header_length: int | None,
        sink: InferenceSink,
        traceparent: bytes | None = None,
        span: RequestSpan | None = None,
    ) -> ProtocolInference:
        """Answer a request; `sink` is called once, unless the inference is abandoned.

        Args:
            model_name: the model asked for.
            version: the version asked for; None leaves it to the routing rules.
            client_id: who asks; one in the request's parameters is taken otherwise.
            body: JSON, followed by binary tensors when `header_length` is given.
            header_length: bytes of the JSON part.
            sink: gets the response or the error.
            traceparent: W3C trace context, valid by its form.
            span: the request's own, where it is traced.
        """
        arrived = asyncio.get_running_loop().time()
        inference = ProtocolInference(self, sink, arrived, arrived + self._request_seconds)
        inference.traceparent = traceparent
        inference.span = span
        inference.client_id = client_id
        inference.asked_for = (model_name, version)
        inference.body_bytes = len(body)
        if len(body) > LARGE_BYTES:
            self.offload.run(
                len(body),
                lambda: read_request(body, header_length),
                inference.on_read,
                inference.due,
            )
        else:
            try:
                request = read_request(body, header_length)
            except GatewayError as error:
                inference.reject(error)
            else:
                inference.on_read(request)
        return inference

    def route(self, inference: ProtocolInference) -> None:
        """Send an inference on its way, by rule or to what its client named.

        Raises:
            NotFound: no variant routes to what was asked for.
        """
        model_name, version = inference.asked_for
        target = self.target(model_name, version)
        production = self.dispatcher.router.table.targets.get(A)
        if version is not None or production is None or model_name != production.model_name:
            # A version, or variant B's own model, was asked for by its name: no rule applies.
            self.dispatcher.dispatch_to(inference, target)
        else:
            self.dispatcher.dispatch(inference)


class ProtocolInference(RoutedRequest):
    """One inference request of the protocol."""

    __slots__ = ("_owner", "_sink", "asked_for", "body_bytes", "request")

    def __init__(
        self, owner: OpenInference, sink: InferenceSink, arrived: float, due: float
    ) -> None:
        super().__init__(owner.dispatcher, arrived, due)
        self._owner = owner
        self._sink = sink
        self.asked_for: tuple[str, int | None] = ("", None)
        self.body_bytes = 0
        self.request: ProtocolRequest

    def on_read(self, result: ProtocolRequest | GatewayError) -> None:
        """Go on once the JSON part was read."""
        if self.is_finished:
            return
        try:
            if isinstance(result, GatewayError):
                raise result
            self.request = result
            if self.client_id is None:
                self.client_id = result.client_id
            self._owner.route(self)
        except GatewayError as error:
            self.reject(error)

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Pack the tensors for this target's version, and queue them."""
        codec = target.client.usable(target.variant)
        request, max_rows = self.request, self._owner.max_rows
        if self.body_bytes > LARGE_BYTES:
            queue = partial(self._queue, target=target, deadline=deadline)
            self._owner.offload.run(
                self.body_bytes,
                lambda: pack_tensors(request, codec, max_rows),
                lambda packed: self.resume(packed, queue),
                deadline,
            )
        else:
            self._queue(pack_tensors(request, codec, max_rows), target, deadline)

    def _queue(self, packed: tuple[Tensors, int], target: RoutingTarget, deadline: float) -> None:
        batcher = target.client.batcher
        assert batcher is not None  # noqa: S101 -- there with the codec, which packed the tensors
        self.tail = self.request.tail
        key = EVERY_OUTPUT if self.tail is None and target.client.can_merge_outputs else None
        kept = self.body_bytes
        if not self.request.body and target.client.codec is not None:
            kept += VALUE_BYTES * packed[1] * target.client.codec.width  # decoded JSON
        self.carry(*packed, key, deadline, kept)
        self.sent_at = perf_counter()
        batcher.submit(self)

    def deliver(self, outputs: InferenceOutputs, start: int, stop: int) -> None:
        """Answer with these rows of the outputs."""
        target = self.target
        tensors = outputs.part(start, stop)
        if tensors is None:
            # An output is not by rows, so that nothing can be merged: asked again, alone.
            target.client.can_merge_outputs = False
            self._queue((self.tensors, self.rows), target, self.deadline)
            return
        response = encode_response(self.request, tensors, target.model_name, target.slot.version)
        target.stats.answer(perf_counter() - self.sent_at, self.rows)
        if self.span is not None:
            self.span.answered(target.model_name, target.variant, target.slot.version)
        self._sink.respond(response, target.variant, target.slot.version)

    def reject(self, error: GatewayError) -> None:
        """End with an error."""
        self.is_finished = True
        self._sink.fail(error)


def _described(tensors: tuple[TritonTensorMetadata, ...]) -> tuple[TensorDescription, ...]:
    return tuple([TensorDescription(one.name, one.datatype, one.shape) for one in tensors])
