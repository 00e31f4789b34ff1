"""`python -m tests.benchmarks.instant_triton --port N`: a Triton that has every model READY.

A real one could not hold hundreds of models here. `GET /requests` answers how many requests came.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

from tests.benchmarks.triton_answers import answer_of, json_answer

_COUNT = b"GET /requests "


class StubConnection(asyncio.Protocol):
    """Answers what arrives at once."""

    requests = 0

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer a complete request."""
        assert self._transport is not None
        self._pending += data
        if self._pending.startswith(_COUNT):
            self._transport.write(json_answer({"requests": StubConnection.requests}))
        elif (answer := answer_of(self._pending)) is not None:
            StubConnection.requests += 1
            self._transport.write(answer)
        else:
            return
        self._pending = b""


async def serve(port: int) -> None:
    """Serve until stopped."""
    server = await asyncio.get_running_loop().create_server(StubConnection, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    """Read the port and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.instant_triton")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
