"""The Open Inference Protocol, as clients speak it to Triton; routed like any prediction.

What the gateway adds is the version: the effective one of the client's variant, checked in the
answer (I2).
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import perf_counter
from typing import Final

import msgspec

from serving_gateway.contract import ModelMetadata
from serving_gateway.errors import NotFound, VariantUnavailable
from serving_gateway.inference.dispatcher import Dispatcher, RoutedRequest, Sink
from serving_gateway.inference.protocol_request import ProtocolRequest, pack_tensors, read_request
from serving_gateway.inference.protocol_response import ProtocolResponse, encode_response
from serving_gateway.inference.router import RoutingTarget
from serving_gateway.inference.rows import VALUE_BYTES
from serving_gateway.inference.tensors import Tensors
from serving_gateway.inference.traffic import check_client_id
from serving_gateway.inference.version_client import EVERY_OUTPUT
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.settings import Settings
from serving_gateway.triton.exchange import TritonResponse

NAME: Final = "serving-gateway"
EXTENSIONS: Final = ("binary_tensor_data", "statistics")

_Encoded = tuple[ProtocolResponse, InferenceOutputs, int]
"""The response; all that Triton answered, and the request's first row there."""


class OpenInference:
    """Answers the protocol's requests by the effective versions of one model."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.max_rows = settings.max_rows
        self._probe_seconds = settings.probe_seconds
        self._request_seconds = settings.request_seconds

    def _targets(self, model_name: str) -> list[RoutingTarget]:
        targets = self.dispatcher.router.table.targets.values()
        return [target for target in targets if target.model_name == model_name]

    def target(self, model_name: str, version: int | None) -> RoutingTarget:
        """The variant that serves a model, or exactly a version of it; else `NotFound`."""
        for target in self._targets(model_name):
            if version in {None, target.slot.version}:
                return target
        wanted = model_name if version is None else f"{model_name} version {version}"
        raise NotFound(
            f"The gateway does not route to {wanted}.",
            code="unknown_model" if version is None else "unknown_version",
        )

    async def metadata(self, model_name: str, version: int | None) -> ModelMetadata:
        """Triton's description of the effective version; `NotFound`, or `Unavailable`."""
        target = self.target(model_name, version)
        reply = await target.client.triton.metadata(
            model_name, self._probe_seconds, target.slot.version
        )
        if reply is None:
            raise VariantUnavailable(
                f"Triton does not have {model_name} version {target.slot.version} READY."
            )
        effective = sorted({target.slot.version for target in self._targets(model_name)})
        return msgspec.structs.replace(reply, name=model_name, versions=tuple(map(str, effective)))

    async def ask(self, model_name: str, version: int | None, what: str) -> TritonResponse:
        """Triton's own answer to `config` or `stats` of the version; raises as `metadata`."""
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
        sink: Sink,
    ) -> ProtocolInference:
        """Answer a request, unless the inference is abandoned.

        Without a `version` the routing rules choose one, by the `client_id` or else by that in
        the request's parameters. Binary tensors follow the JSON of `header_length` bytes.
        """
        arrived = asyncio.get_running_loop().time()
        due = arrived + self._request_seconds
        inference = ProtocolInference(
            self, sink, model_name, version, client_id, body, header_length, arrived, due
        )
        inference.begin(len(body))
        return inference


class ProtocolInference(RoutedRequest):
    """One inference request of the protocol."""

    __slots__ = ("_body", "_header_length", "_model_name", "_owner", "_version", "request")

    def __init__(
        self,
        owner: OpenInference,
        sink: Sink,
        model_name: str,
        version: int | None,
        client_id: str | None,
        body: bytes,
        header_length: int | None,
        arrived: float,
        due: float,
    ) -> None:
        super().__init__(owner.dispatcher, sink, arrived, due)
        self._owner = owner
        self._model_name = model_name
        self._version = version
        self.client_id = client_id
        self._body = body
        self._header_length = header_length
        self.request: ProtocolRequest

    def read(self) -> None:
        """Read the JSON part; a version, or B's own model, is requested by its name."""
        self.request = read_request(self._body, self._header_length)
        field = "x-client-id"
        if self.client_id is None:
            self.client_id, field = self.request.client_id, "parameters.client_id"
        check_client_id(self.client_id, field)
        model_name, version = self._model_name, self._version
        target = self._owner.target(model_name, version)
        production = self.dispatcher.router.table.production
        if version is not None or production is None or model_name != production.model_name:
            self.named = target

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Pack the tensors for this target's version, and queue them."""
        codec = target.client.require_codec(target.variant)
        queue = partial(self._queue, target=target, deadline=deadline)
        self.offload.run(
            len(self._body),
            partial(pack_tensors, self.request, codec, self._owner.max_rows),
            partial(self.resume, queue=queue),
            deadline,
        )

    def _queue(self, packed: tuple[Tensors, int], target: RoutingTarget, deadline: float) -> None:
        client = target.client
        batcher, codec = client.batcher, client.codec
        assert batcher is not None  # noqa: S101 -- there with the codec, which packed the tensors
        assert codec is not None  # noqa: S101
        self.tail = self.request.tail
        key = EVERY_OUTPUT if self.tail is None and client.can_merge_outputs else None
        kept = len(self._body) + len(self.client_id or "")
        if not self.request.body:
            kept += VALUE_BYTES * packed[1] * codec.width  # decoded JSON
        self.carry(*packed, key, deadline, kept)
        self.sent_at = perf_counter()
        batcher.submit(self)

    def encode(self, outputs: InferenceOutputs, start: int, stop: int) -> _Encoded | None:
        """The response; None if an output is not row-wise, so that nothing can be merged."""
        tensors, target = outputs.part(start, stop), self.target
        if tensors is None:
            return None
        head, version = self.request.head, target.slot.version
        return encode_response(head, tensors, target.model_name, version), outputs, start

    def answer(self, encoded: _Encoded | None) -> None:
        """Send the response, or repeat the inference unmerged."""
        target = self.target
        name, variant, version = target.model_name, target.variant, target.slot.version
        if encoded is None:
            target.client.can_merge_outputs = False
            self._queue((self.tensors, self.rows), target, self.deadline)
            return
        response, outputs, start = encoded
        ids, log = self.dispatcher.ids, self.dispatcher.log
        self.number = ids.next_number()
        if self.is_traffic:
            seconds = perf_counter() - self.sent_at
            target.stats.answer(seconds, self.rows)
            if target.counter is not None:
                target.counter.answer(seconds)
            if log is not None and log.is_due():
                variant_log = target.log or self.open_log(log)
                answer = outputs.cached_log_answer or outputs.log_answer()
                about = self.number, self.rows, self.sent_at, seconds, self.client_id
                variant_log.put(*about, None, self.size, None, answer, start)
        if self.span is not None:
            self.span.record_version(name, variant, version)
        self.sink.respond(response, variant, version, ids.text(self.number))
