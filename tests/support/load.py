"""A bounded load on `POST /predict` that keeps, of every answer, what proves it right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

ROW = [5.1, 3.5, 1.4, 0.2]


def ask_patiently(url: str, body: dict[str, Any], patience_s: float = 60) -> httpx.Response:
    """Ask as a client that honours Retry-After does, for so many seconds.

    Features that a busy machine does not find in time are one reason to be asked again.
    """
    deadline = time.monotonic() + patience_s
    while True:
        answer = httpx.post(url, json=body, trust_env=False, timeout=120)
        if answer.status_code != 503 or time.monotonic() > deadline:
            return answer
        time.sleep(float(answer.headers["retry-after"]))


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent, when its answer had come, and what that said."""

    sent: float
    received: float
    status: int
    """0 when the connection failed."""
    version: int | None
    generation: int | None
    predictions: Any
    text: str
    """The body of an answer that is no success."""
    feature_source: str = ""
    variant: str = ""
    client_id: str | None = None
    """That the question named."""
    retry_after: str | None = None
    """The header of that name."""

    @property
    def seconds(self) -> float:
        """What the client waited."""
        return self.received - self.sent


class _Head(NamedTuple):
    """What the head of an answer says; `keeps`: another question may follow."""

    status: int
    keeps: bool
    retry_after: str | None


_NO_ANSWER = _Head(0, keeps=False, retry_after=None)


class _Question(NamedTuple):
    """A request, and the client that it names."""

    request: bytes
    client_id: str | None


class Load:
    """`connections` clients that ask one after another, each on a connection that is kept.

    Args:
        url: of the gateway, or of the balancer before it.
        connections: clients at one time.
        pause_seconds: between an answer and the next question of a client.
        per_second: questions of all clients together, whatever the answers take as long as not
            all clients wait for one; instead of a pause.
        body: the question.
        bodies: questions that follow each other, instead of that one; the last one by the first.
    """

    def __init__(
        self,
        url: str,
        connections: int,
        *,
        pause_seconds: float = 0.0,
        per_second: float | None = None,
        body: dict[str, Any] | None = None,
        bodies: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.answers: list[Answer] = []
        address = urlsplit(url)
        assert address.hostname is not None
        self._host, self._port = address.hostname, address.port or 80
        self._connections = connections
        self._pause = pause_seconds
        self._period = connections / per_second if per_second else 0.0
        self._netloc = address.netloc
        self.ask(bodies or [body or {"data": [ROW]}])
        self._stop = asyncio.Event()
        self._clients: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        """Start all clients."""
        self._clients = [
            asyncio.create_task(self._ask(number)) for number in range(self._connections)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let every client finish its question."""
        self._stop.set()
        await asyncio.gather(*self._clients)

    def ask(self, bodies: Sequence[dict[str, Any]]) -> None:
        """Ask these questions from now on."""
        self._questions = itertools.cycle([self._question(body) for body in bodies])

    def _question(self, body: dict[str, Any]) -> _Question:
        content = json.dumps(body).encode()
        head = (
            f"POST /predict HTTP/1.1\r\nhost: {self._netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        return _Question(head.encode() + content, body.get("client_id"))

    @property
    def failed(self) -> list[Answer]:
        """All that is no success."""
        return [answer for answer in self.answers if answer.status != 200]

    async def _ask(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        due = time.monotonic() + self._period * number / self._connections
        if self._period:
            await self._rest(due - time.monotonic())
        while not self._stop.is_set():
            sent, question = time.monotonic(), next(self._questions)
            try:
                async with asyncio.timeout(20):
                    if streams is None:
                        streams = await asyncio.open_connection(self._host, self._port)
                    head, body = await self._exchange(question.request, *streams)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                head, body = _NO_ANSWER, repr(error).encode()
            self.answers.append(_answer(sent, head, body, question.client_id))
            if not head.keeps and streams is not None:
                await _close(streams[1])
                streams = None
            due += self._period
            pause = due - time.monotonic() if self._period else self._pause
            if pause > 0:
                await self._rest(pause)
        if streams is not None:
            await _close(streams[1])

    async def _rest(self, seconds: float) -> None:
        """Until the next question is due, or there are no more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _exchange(
        self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[_Head, bytes]:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(_field(head, b"content-length") or 0))
        keeps = b"connection: close" not in head
        return _Head(int(head.split(b" ", 2)[1]), keeps, _field(head, b"retry-after")), body


def _field(head: bytes, name: bytes) -> str | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode() if found else None


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _answer(sent: float, head: _Head, body: bytes, client_id: str | None) -> Answer:
    received = time.monotonic()
    if head.status != 200:
        text = body.decode(errors="replace")
        return Answer(
            *(sent, received, head.status, None, None, None, text),
            client_id=client_id,
            retry_after=head.retry_after,
        )
    found = json.loads(body)
    return Answer(
        sent,
        received,
        head.status,
        found["version"],
        found["generation"],
        found["predictions"],
        "",
        found["feature_source"],
        found["variant"],
        client_id,
    )


@dataclass(slots=True)
class Reign:
    """When a generation may answer: from the request that made it until all replicas left it."""

    version: int
    began: float
    ended: float = float("inf")


def wrongly_answered(answers: Sequence[Answer], reigns: dict[int, Reign]) -> list[Answer]:
    """Answers of a version that was not effective at any moment between send and receive.

    Also those whose model (a telltale, see `tests.support.onnx_models`) says that another version
    computed them than the answer names.
    """
    found: list[Answer] = []
    for answer in answers:
        if answer.status != 200:
            continue
        reign = reigns.get(answer.generation or 0)
        if (
            reign is None
            or reign.version != answer.version
            or answer.predictions != [answer.version]
            or answer.received < reign.began
            or answer.sent > reign.ended
        ):
            found.append(answer)
    return found


@dataclass(slots=True)
class SteadyClient:
    """Asks for predictions at a steady rate from a thread, and writes down what it got."""

    url: str
    path: str = "/predict"
    body: dict[str, Any] = field(default_factory=lambda: {"data": [ROW], "client_id": "a client"})
    per_second: int = 50
    clients: int = 1
    """In whose names it asks, in turn; one asks in that of `body`."""
    answers: list[tuple[float, int]] = field(default_factory=list)
    """When each answer came (monotonic seconds), and by which version."""
    failures: list[str] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The versions that answered, in order."""
        return [version for _, version in self.answers]

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Ask until the block is left."""
        over = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as client:
                for number in itertools.count():
                    if over.wait(1 / self.per_second):
                        break
                    body = self.body
                    if self.clients > 1:
                        body = {**body, "client_id": f"client {number % self.clients}"}
                    try:
                        answer = client.post(self.path, json=body)
                        answer.raise_for_status()
                        self.answers.append((time.monotonic(), answer.json()["version"]))
                    except httpx.HTTPError as error:
                        self.failures.append(repr(error))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
