"""`/v2`: the Open Inference Protocol as raw ASGI. What is not listed here does not exist."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    UnsupportedMediaType,
)
from serving_gateway.http.raw import (
    JSON,
    SPAN,
    Header,
    Receive,
    Scope,
    encode,
    header,
    origin,
    read_body,
)
from serving_gateway.inference.open_inference import NAME, ServerMetadata
from serving_gateway.triton.exchange import TritonResponse

_MODEL: Final = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>[a-z]+))?",
    re.ASCII,
)
_BINARY: Final[Header] = (b"content-type", b"application/octet-stream")
CLIENT_ID_HEADER: Final = b"x-client-id"

Reply = tuple[int, bytes, list[Header]]


def _own_version() -> str:
    try:
        return version("serving-platform")
    except PackageNotFoundError:
        return "unknown"


class OipEndpoint:
    """Routes the paths of the protocol.

    Args:
        hosting: finds the model, and tells readiness by the default one.
        max_body: largest body in bytes.
    """

    def __init__(self, hosting: Hosting, max_body: int) -> None:
        self._hosting = hosting
        self._max_body = max_body
        self._metadata = encode(ServerMetadata(NAME, _own_version()))

    async def __call__(self, scope: Scope, receive: Receive) -> Reply:
        """Answer one request: (status, body, headers).

        Raises:
            GatewayError: whatever is refused or cannot be done.
        """
        path: str = scope["path"].rstrip("/")
        match = _MODEL.fullmatch(path)
        if match is not None:
            return await self._model(scope, receive, match)
        if path not in {"/v2", "/v2/health/live", "/v2/health/ready"}:
            raise NotFound(f"There is no {path} in this gateway.")
        _check_method(scope, "GET")
        if path == "/v2":
            return 200, self._metadata, [JSON]
        live = path == "/v2/health/live" or self._hosting.default.router.readiness().ready
        return (200 if live else 400), b"", []

    async def _model(self, scope: Scope, receive: Receive, match: re.Match[str]) -> Reply:
        model = match["model"]
        number = _version(match["version"])
        what = match["what"]
        if what == "infer":
            _check_method(scope, "POST")
            return await self._infer(scope, receive, model, number)
        if what not in {None, "ready", "config", "stats"}:
            raise NotFound(f"There is no {scope['path']} in this gateway.")
        _check_method(scope, "GET")
        protocol = self._hosting.answering(model).open_inference
        if what is None:
            return 200, encode(await protocol.metadata(model, number)), [JSON]
        if what == "ready":
            ready = protocol.target(model, number).client.ready
            return (200 if ready else 400), b"", []
        return _relayed(await protocol.ask(model, number, what))

    async def _infer(self, scope: Scope, receive: Receive, model: str, number: int | None) -> Reply:
        headers = scope["headers"]
        encoding = header(headers, b"content-encoding")
        if encoding not in {None, b"identity"}:
            raise UnsupportedMediaType("Compressed bodies are not read; send it as it is.")
        announced = header(headers, b"inference-header-content-length")
        if announced is not None and (not announced.isdigit() or len(announced) > 18):
            raise MalformedRequest("Inference-Header-Content-Length is no number.")
        client = header(headers, CLIENT_ID_HEADER)
        body = await read_body(receive, headers, self._max_body)
        forwarded = await self._hosting.answering(model).open_inference.infer(
            model,
            number,
            None if client is None else client.decode("latin-1"),
            body,
            None if announced is None else int(announced),
            origin(receive, header(headers, b"traceparent"), scope.get(SPAN)),
        )
        status, content, answered = _relayed(forwarded.answer)
        answered.append((b"x-serving-variant", forwarded.variant.encode()))
        answered.append((b"x-serving-version", b"%d" % forwarded.version))
        return status, content, answered


def _relayed(answer: TritonResponse) -> Reply:
    """Triton's answer, with the headers that tell how to read it and no others."""
    size = answer.inference_header_length
    if size is None:
        return answer.status, answer.body, [JSON]
    length = (b"inference-header-content-length", b"%d" % size)
    return answer.status, answer.body, [_BINARY, length]


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise NotFound(f"{text!r} is no version.", code="unknown_version")
    return int(text)


def _check_method(scope: Scope, wanted: str) -> None:
    if scope["method"] != wanted:
        raise MethodNotAllowed(f"{scope['path']} takes {wanted}.", allow=wanted)


def template(path: str) -> str:
    """The route of a path of the protocol, for metrics."""
    match = _MODEL.fullmatch(path.rstrip("/"))
    if match is None:
        return path if path in {"/v2", "/v2/health/live", "/v2/health/ready"} else "other"
    what = match["what"]
    if what is None:
        return "/v2/models/{model}"
    known = what in {"infer", "ready", "config", "stats"}
    return f"/v2/models/{{model}}/{what}" if known else "other"
