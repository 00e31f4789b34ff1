"""Triton over its HTTP inference API: the one place where transport failures become ours.

Model control is not spoken here: the gateway holds no key for it, and needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    TritonUnavailable,
)
from serving_gateway.inference.codec import OutputTensor
from serving_gateway.triton.connections import (
    Answer,
    AnswerTimeout,
    ConnectFailed,
    ConnectionLost,
    Exchange,
    MalformedAnswer,
    Pool,
    Result,
    TransportError,
)
from serving_gateway.triton.discovery import versions_ready_on_every_server
from serving_gateway.triton.protocol import ModelMetadata, metadata_decoder, parse_inference

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import Tracing

_RETRY_COST: Final = 1.0
_RETRY_EARNED: Final = 0.1
_RETRY_SAVED: Final = 10.0
"""Each answer earns a tenth of a retry; ten are saved, or one for each connection: the end of a
server may cost that many, and an outage is not multiplied."""


InferenceDone = Callable[[list[OutputTensor] | GatewayError], None]


def translated(error: TransportError, url: str) -> GatewayError:
    """The gateway's error for what went wrong on the way to Triton."""
    match error:
        case ConnectFailed():
            return TritonUnavailable(f"Triton at {url} cannot be reached: {error}.")
        case ConnectionLost():
            return TritonUnavailable(f"Triton at {url} closed the connection: {error}.")
        case AnswerTimeout():
            return DeadlineExceeded(f"Triton at {url}: {error}.", code="triton_timeout")
        case MalformedAnswer():
            return BadUpstreamAnswer(f"Triton at {url} answered what is no HTTP: {error}.")
        case _:
            return BadUpstreamAnswer(f"Triton at {url}: {error}.")


class Inference:
    """One inference under way; `abandon` forgets it and closes its connection."""

    __slots__ = ("_done", "_exchange", "_retried", "_triton", "version")

    def __init__(self, triton: Triton, request: bytes, version: int, done: InferenceDone) -> None:
        self._triton = triton
        self._done = done
        self._retried = False
        self.version = version
        self._exchange = Exchange(request, self._finished)
        triton.pool.start(self._exchange)

    def abandon(self) -> None:
        """Forget the inference: nobody is called back."""
        self._exchange.abandon()

    def _finished(self, result: Result) -> None:
        if isinstance(result, Answer):
            self._triton.earn_retry()
            try:
                outputs = parse_inference(result, self.version)
            except GatewayError as error:
                self._done(error)
            else:
                self._done(outputs)
            return
        if self._triton.may_retry(result) and not self._retried and self._triton.take_retry():
            # An inference changes nothing, so asking twice is safe. A kept connection that the
            # server had closed meanwhile is the usual cause; the others are as old.
            self._retried = True
            self._triton.pool.drop_idle()
            self._exchange = Exchange(self._exchange.request, self._finished)
            self._triton.pool.start(self._exchange)
            return
        self._done(translated(result, self._triton.url))


class Triton:
    """One Triton server.

    Args:
        url: its HTTP address.
        connections: most connections at one time.
        connect_seconds: limit for opening one.
        servers_url: every server behind the address, where there are several.
        tracing: makes spans of inferences; None where that is switched off.
    """

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        connect_seconds: float,
        servers_url: str | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.url = url
        self.tracing = tracing
        self._servers_url = servers_url
        self._connect_seconds = connect_seconds
        self.pool = Pool(url, size=connections, connect_seconds=connect_seconds)
        # Questions about readiness must not queue behind inferences.
        self._questions = Pool(url, size=4, connect_seconds=connect_seconds)
        self._most_retries = max(_RETRY_SAVED, float(connections))
        self._retries = self._most_retries

    async def aclose(self) -> None:
        """Close all connections."""
        await self.pool.aclose()
        await self._questions.aclose()

    def earn_retry(self) -> None:
        """Credit the retry budget with one answer."""
        if self._retries < self._most_retries:
            self._retries += _RETRY_EARNED

    def may_retry(self, failure: TransportError) -> bool:
        """Whether the request was not worked on, and asking again may find a server."""
        if isinstance(failure, ConnectionLost):
            return not failure.answered
        # Behind a Service the next connection may lead to another server.
        return isinstance(failure, ConnectFailed) and self._servers_url is not None

    def take_retry(self) -> bool:
        """Whether the budget allows one more retry; if so it is paid."""
        if self._retries < _RETRY_COST:
            return False
        self._retries -= _RETRY_COST
        return True

    async def version_ready(self, model_name: str, version: int, limit_seconds: float) -> bool:
        """Whether Triton has exactly this version READY, asked now.

        Raises:
            TritonUnavailable: it cannot be asked.
            DeadlineExceeded: it did not answer in time.
        """
        path = f"/v2/models/{model_name}/versions/{version}/ready"
        return (await self._get(path, limit_seconds)).status == 200

    async def metadata(
        self, model_name: str, limit_seconds: float, version: int | None = None
    ) -> ModelMetadata | None:
        """Triton's description of a model; None when no version of it is READY.

        Raises:
            TritonUnavailable: it cannot be asked.
            DeadlineExceeded: it did not answer in time.
            BadUpstreamAnswer: its answer is unreadable.
        """
        path = f"/v2/models/{model_name}" + ("" if version is None else f"/versions/{version}")
        answer = await self._get(path, limit_seconds)
        if answer.status != 200:
            return None
        try:
            return metadata_decoder.decode(answer.body)
        except msgspec.DecodeError as error:
            raise BadUpstreamAnswer(f"Triton's model metadata are unreadable: {error}.") from error

    async def ready_versions(self, model_name: str, limit_seconds: float) -> tuple[int, ...]:
        """The versions of a model that are READY, asked now, ascending; empty when none is.

        Of several servers: those that each one that can be reached has READY.

        Raises:
            TritonUnavailable: it cannot be asked.
            DeadlineExceeded: it did not answer in time.
            BadUpstreamAnswer: its answer is unreadable.
        """
        if self._servers_url is not None:
            return await versions_ready_on_every_server(
                self._servers_url, lambda url: self._ready_at(url, model_name, limit_seconds)
            )
        found = await self.metadata(model_name, limit_seconds)
        versions = () if found is None else found.versions
        return tuple(sorted(int(version) for version in versions if version.isdecimal()))

    async def _ready_at(self, url: str, model_name: str, limit_seconds: float) -> tuple[int, ...]:
        server = Triton(url, connections=1, connect_seconds=self._connect_seconds)
        try:
            return await server.ready_versions(model_name, limit_seconds)
        finally:
            await server.aclose()

    async def ask(self, path: str, limit_seconds: float) -> Answer:
        """Triton's answer to a GET of `path`, whatever it is.

        Raises:
            TritonUnavailable: it cannot be asked.
            DeadlineExceeded: it did not answer in time.
        """
        return await self._get(path, limit_seconds)

    async def forward(
        self,
        model_name: str,
        version: int,
        body: bytes,
        header_length: int | None,
        limit_seconds: float,
        traceparent: bytes | None = None,
    ) -> Answer:
        """Pass an inference request of the protocol on, to exactly this version.

        Args:
            model_name: the model in Triton.
            version: the version.
            body: JSON, followed by binary tensors when `header_length` is given.
            header_length: bytes of the JSON part.
            limit_seconds: limit for the answer.
            traceparent: W3C trace context to pass on.

        Raises:
            TritonUnavailable: it cannot be reached, or closed the connection.
            DeadlineExceeded: it did not answer in time.
            BadUpstreamAnswer: it answered what is no HTTP.
        """
        path = f"{self.pool.prefix}/v2/models/{model_name}/versions/{version}/infer"
        kind = "json" if header_length is None else "octet-stream"
        head = f"POST {path} HTTP/1.1\r\nHost: {self.pool.authority}\r\n"
        head += f"Content-Type: application/{kind}\r\nContent-Length: {len(body)}\r\n"
        if header_length is not None:
            head += f"Inference-Header-Content-Length: {header_length}\r\n"
        if traceparent is not None:
            head += f"traceparent: {traceparent.decode('ascii')}\r\n"
        request = f"{head}\r\n".encode() + body
        try:
            try:
                answer = await self.pool.fetch(request, limit_seconds)
            except TransportError as error:
                if not (self.may_retry(error) and self.take_retry()):
                    raise
                self.pool.drop_idle()
                answer = await self.pool.fetch(request, limit_seconds)
        except TransportError as error:
            raise translated(error, self.url) from error
        self.earn_retry()
        return answer

    async def _get(self, path: str, limit_seconds: float) -> Answer:
        request = f"GET {self.pool.prefix}{path} HTTP/1.1\r\nHost: {self.pool.authority}\r\n\r\n"
        try:
            try:
                return await self._questions.fetch(request.encode(), limit_seconds)
            except TransportError as error:
                # A kept connection may have been closed since; a fresh one tells.
                if not isinstance(error, ConnectionLost) and not self.may_retry(error):
                    raise
                self._questions.drop_idle()
                return await self._questions.fetch(request.encode(), limit_seconds)
        except TransportError as error:
            raise translated(error, self.url) from error
