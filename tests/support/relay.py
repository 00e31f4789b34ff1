"""A process that forwards connections: what stands behind it can be lost without stopping it.

`python -m tests.support.relay PORT TARGET` listens on one loopback port and forwards to another.
Where it is stopped or killed, its clients meet what they would of a server that hangs or has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from typing import Final

_LOOPBACK: Final = "127.0.0.1"


async def forward(port: int, target: int) -> None:
    """Forward connections for ever."""
    server = await asyncio.start_server(partial(_connect, target), _LOOPBACK, port)
    await server.serve_forever()


async def _connect(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection(_LOOPBACK, target)
        with contextlib.closing(far_writer):
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    asyncio.run(forward(int(sys.argv[1]), int(sys.argv[2])))
