"""The Open Inference Protocol for clients that speak it to Triton: routed, otherwise untouched.

The tensors go through as they came, so every type and both encodings work; but for null in JSON,
which becomes NaN or the empty text where a value may be missing. What the gateway adds is the
version: the effective one of the client's variant, checked in the answer (I2).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import msgspec

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    MalformedRequest,
    NotFound,
    Unavailable,
    VariantUnavailable,
)
from serving_gateway.inference.batcher import Origin
from serving_gateway.inference.missing_values import replace_nulls_with_nan
from serving_gateway.inference.router import Router, RoutingTable, Target, production
from serving_gateway.inference.traffic import A, B
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import ModelMetrics
from serving_gateway.triton.exchange import TritonResponse

NAME: Final = "serving-gateway"
EXTENSIONS: Final = ("binary_tensor_data", "statistics")


class _Tensor(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    outputs: list[_Tensor] = []
    parameters: dict[str, Any] = {}


class _AnswerHead(msgspec.Struct):
    model_version: str


class ServerMetadata(msgspec.Struct, frozen=True):
    """Body of `GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...] = EXTENSIONS


class Forwarded(msgspec.Struct, frozen=True):
    """Triton's answer to an inference, and who was asked."""

    answer: TritonResponse
    variant: str
    version: int


class _Passed(msgspec.Struct, frozen=True):
    """What is passed on to Triton as it came."""

    body: bytes
    header_length: int | None
    origin: Origin | None


_requests = msgspec.json.Decoder(_Request)
_heads = msgspec.json.Decoder(_AnswerHead)


class OpenInference:
    """Answers the protocol's questions by the effective versions.

    Args:
        settings: limits.
        router: the table to route by.
        wake: called when Triton seems to have changed, to have it looked at now.
        metrics: counts.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        wake: Callable[[], None],
        metrics: ModelMetrics,
    ) -> None:
        self._settings = settings
        self._router = router
        self._wake = wake
        self._fallbacks = metrics.fallbacks

    def target(self, model_name: str, version: int | None) -> Target:
        """The variant that serves a model, or exactly a version of it.

        Raises:
            NotFound: no variant routes to it.
        """
        for target in self._router.table.targets.values():
            if target.model_name == model_name and version in {None, target.slot.version}:
                return target
        wanted = model_name if version is None else f"{model_name} version {version}"
        raise NotFound(
            f"The gateway does not route to {wanted}.",
            code="unknown_model" if version is None else "unknown_version",
        )

    async def metadata(self, model_name: str, version: int | None) -> dict[str, Any]:
        """Triton's description of the effective version; `versions` are the effective ones.

        Raises:
            NotFound: no variant routes to it.
            Unavailable: Triton cannot be asked, or does not have it READY.
        """
        target = self.target(model_name, version)
        client = target.client
        found = await client.triton.metadata(
            model_name, self._settings.probe_seconds, target.slot.version
        )
        if found is None:
            raise VariantUnavailable(
                f"Triton does not have {model_name} version {target.slot.version} READY."
            )
        effective = {
            other.slot.version
            for other in self._router.table.targets.values()
            if other.model_name == model_name
        }
        return {
            "name": model_name,
            "versions": [str(number) for number in sorted(effective)],
            "platform": found.platform,
            "inputs": found.inputs,
            "outputs": found.outputs,
        }

    async def ask(self, model_name: str, version: int | None, what: str) -> TritonResponse:
        """Triton's answer to `config` or `stats` of the effective version, as it is.

        Raises:
            NotFound: no variant routes to it.
            Unavailable, DeadlineExceeded: Triton cannot be asked.
        """
        target = self.target(model_name, version)
        path = f"/v2/models/{model_name}/versions/{target.slot.version}/{what}"
        return await target.client.triton.get(path, self._settings.probe_seconds)

    async def infer(
        self,
        model_name: str,
        version: int | None,
        client_id: str | None,
        body: bytes,
        header_length: int | None,
        origin: Origin | None = None,
    ) -> Forwarded:
        """Have the effective version answer a request of the protocol.

        Args:
            model_name: the model asked for.
            version: the version asked for; None leaves it to the routing rules.
            client_id: who asks; one in the request's parameters is taken otherwise.
            body: JSON, followed by binary tensors when `header_length` is given.
            header_length: bytes of the JSON part.
            origin: who asks, when that is known.

        Raises:
            NotFound: no variant routes to the model or version.
            MalformedRequest, InvalidInput: the JSON part is wrong, or null where nothing may be.
            Unavailable, DeadlineExceeded, BadUpstreamAnswer: no answer to pass on.
        """
        request = read_request(body, header_length)
        if client_id is None:
            given = request.parameters.get("client_id")
            client_id = given if isinstance(given, str) else None
        passed = _Passed(body, header_length, origin)
        table = self._router.table
        asked = self.target(model_name, version)
        production_name = table.targets[A].model_name if A in table.targets else None
        if version is not None or asked.model_name != production_name:
            # A version, or variant B's own model, was asked for by its name: no rule applies.
            return await self._forward(asked, passed)
        shadow = table.targets.get(B)
        if (
            shadow is not None
            and shadow.model_name == model_name
            and table.policy.answers(client_id) == B
        ):
            try:
                return await self._forward(shadow, passed)
            except (Unavailable, DeadlineExceeded, BadUpstreamAnswer):
                self._fallbacks.inc()
        return await self._by_a(table, passed)

    async def _by_a(self, table: RoutingTable, passed: _Passed) -> Forwarded:
        """Answer by production, also when it is switched while the request is under way."""
        try:
            return await self._forward(production(table), passed)
        except VariantUnavailable:
            fresh = self._router.table
            if fresh is table or A not in fresh.targets:
                raise
            return await self._forward(fresh.targets[A], passed)

    async def _forward(self, target: Target, passed: _Passed) -> Forwarded:
        client = target.client
        if not client.ready:
            raise VariantUnavailable(
                f"Variant {target.variant} routes to version {client.version}, which cannot answer "
                f"now: {client.reason} It heals by itself once Triton has that version READY."
            )
        body, header_length = passed.body, passed.header_length
        if client.coalescer is not None:
            body, header_length = replace_nulls_with_nan(
                body, header_length, client.coalescer.codec
            )
        started = perf_counter()
        try:
            answer = await self._ask_triton(target, body, header_length, passed.origin)
        except InferenceRefused as error:
            # Clients of the protocol expect Triton's own status for what their request is to blame.
            target.stats.failed += 1
            refusal = msgspec.json.encode({"error": error.message})
            answer = TritonResponse(error.upstream_status, None, refusal)
            return Forwarded(answer, target.variant, client.version)
        except GatewayError:
            target.stats.failed += 1
            self._wake()
            raise
        check_version(answer, client.version)
        target.stats.answer(perf_counter() - started, 1)
        return Forwarded(answer, target.variant, client.version)

    async def _infer(self, client: VersionClient, request: bytes) -> TritonResponse:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[TritonResponse] = loop.create_future()

        def done(result: TritonResponse | GatewayError) -> None:
            if future.done():
                return
            if isinstance(result, GatewayError):
                future.set_exception(result)
            else:
                future.set_result(result)

        limit = self._settings.request_seconds
        # A model with state is advanced by each execution.
        call = client.triton.infer(
            client.model_name,
            client.version,
            request,
            loop.time() + limit,
            done,
            repeatable=b"sequence_id" not in request,
        )
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError as error:
            call.abandon(overdue=True)
            raise DeadlineExceeded(
                f"Triton at {client.triton.url}: no answer within {limit:g} s.",
                code="triton_timeout",
            ) from error
        finally:
            call.abandon()

    async def _ask_triton(
        self, target: Target, body: bytes, header_length: int | None, origin: Origin | None
    ) -> TritonResponse:
        """Pass one request on, in a span of its own where that is traced."""
        client = target.client
        tracing = client.triton.tracing
        span = None
        if tracing is not None and origin is not None and origin.span is not None:
            origin.span.answered(target.model_name, target.variant, client.version)
            span = tracing.inference(client.model_name, client.version, None, [origin.span])
        trace = None if origin is None else origin.traceparent
        failed: GatewayError | None = None
        try:
            trace = trace if span is None else span.traceparent
            request = inference_request(client, body, header_length, trace)
            return await self._infer(client, request)
        except GatewayError as error:
            failed = error
            raise
        finally:
            if span is not None:
                span.end(failed)


def inference_request(
    client: VersionClient, body: bytes, header_length: int | None, traceparent: bytes | None
) -> bytes:
    """The HTTP request that passes a body on to exactly the client's version."""
    triton = client.triton
    path = f"{triton.prefix}/v2/models/{client.model_name}/versions/{client.version}/infer"
    kind = "json" if header_length is None else "octet-stream"
    head = f"POST {path} HTTP/1.1\r\nHost: {triton.authority}\r\n"
    head += f"Content-Type: application/{kind}\r\nContent-Length: {len(body)}\r\n"
    if header_length is not None:
        head += f"Inference-Header-Content-Length: {header_length}\r\n"
    if traceparent is not None:
        head += f"traceparent: {traceparent.decode('ascii')}\r\n"
    return f"{head}\r\n".encode() + body


def read_request(body: bytes, header_length: int | None) -> _Request:
    """The JSON part of an inference request.

    Raises:
        MalformedRequest: it is no JSON, or shorter than announced.
        InvalidInput: it is no inference request, or wants shared memory.
    """
    if header_length is not None and header_length > len(body):
        raise MalformedRequest(
            f"The JSON part is announced with {header_length} bytes; the body has {len(body)}."
        )
    text = body if header_length is None else body[:header_length]
    try:
        request = _decoded(text)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"No inference request: {error}.") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MalformedRequest(f"The JSON part is no JSON: {error}.") from error
    for tensor in (*request.inputs, *request.outputs):
        if "shared_memory_region" in tensor.parameters:
            raise InvalidInput(
                f"{tensor.name} lies in shared memory, which is not reachable through the "
                "gateway; send the tensor itself.",
                field=tensor.name,
                code="shared_memory",
            )
    return request


def _decoded(text: bytes) -> _Request:
    try:
        return _requests.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Clients of Triton write missing numbers as NaN, which is no JSON; Triton reads it.
        if b"NaN" not in text and b"Infinity" not in text:
            raise
    return msgspec.convert(json.loads(text.decode()), _Request)


def check_version(answer: TritonResponse, version: int) -> None:
    """Make sure that the version that was asked for has answered.

    Raises:
        BadUpstreamAnswer: another one has, or nobody can tell.
    """
    size = answer.inference_header_length
    try:
        head = _heads.decode(answer.body if size is None else answer.body[:size])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadUpstreamAnswer(f"Triton's inference answer is unreadable: {error}.") from error
    if head.model_version != str(version):
        raise BadUpstreamAnswer(
            f"Triton answered by version {head.model_version} when asked for version {version}; "
            "the answer was dropped.",
            code="version_mismatch",
        )
