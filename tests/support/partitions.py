"""A Redis whose connection to each replica can be cut alone, silently, as a network fails.

Where this machine permits it, Redis runs in a network namespace of its own, with a link to each
replica that is taken down: no packet passes, and no side hears of it. Elsewhere each replica
reaches Redis through a relay that stops forwarding. Either way what was sent waits, and arrives
late when the link is back, as TCP has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.support.servers import (
    LOOPBACK,
    RunningProcess,
    ServerError,
    run_process,
    run_redis,
    wait_until,
)

NAMESPACES: Final = "network namespaces"
RELAYS: Final = "relays"
_T = TypeVar("_T")
_BLOCKS: Final = range(0, 2**17, 4)
"""Of 198.18.0.0/15, which is set aside for tests of networks: first addresses of four each."""


@dataclass(frozen=True, slots=True)
class PartitionedRedis:
    """One Redis, as each replica reaches it.

    Attributes:
        urls: of Redis, by the number of the replica.
        cut: takes away the connection of a replica.
        heal: brings it back.
    """

    urls: Sequence[str]
    cut: Callable[[int], None]
    heal: Callable[[int], None]


def networks() -> tuple[str, ...]:
    """The ways to cut connections on this machine, the most real one first."""
    return (NAMESPACES, RELAYS) if _permits_namespaces() else (RELAYS,)


@contextlib.contextmanager
def run_partitioned_redis(home: Path, replicas: int, network: str) -> Iterator[PartitionedRedis]:
    """Run a Redis that so many replicas reach through a network of their own."""
    run = _with_links if network == NAMESPACES else _with_relays
    with run(home, replicas) as running:
        yield running


def _permits_namespaces() -> bool:
    """Whether this process may make network namespaces, and links between them."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    link = ("ip", "link", "add", "near0", "type", "veth", "peer", "name", "far0")
    trial = ["unshare", "--net", *link]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


# Links


@contextlib.contextmanager
def _with_links(home: Path, replicas: int) -> Iterator[PartitionedRedis]:
    with contextlib.ExitStack() as stack:
        # The namespace and its links end with this process, which ends with the tests.
        holder = stack.enter_context(
            run_process(
                ["unshare", "--net", "sleep", "infinity"],
                ready=lambda: True,
                log=home / "logs" / "namespace.log",
            )
        )
        own = Path("/proc/self/ns/net").readlink()

        def is_apart() -> bool:
            with contextlib.suppress(ServerError):  # it is being started
                return _namespace(holder).readlink() != own
            return False

        wait_until(is_apart, 20, "a network namespace of its own")
        namespace = str(holder.server.pid)
        blocks = random.sample(_BLOCKS, replicas)
        hosts = [_link(namespace, number, block) for number, block in enumerate(blocks)]
        inside = ("nsenter", "--target", namespace, "--net")
        options = ("--bind", *hosts, "--protected-mode", "no")
        redis = stack.enter_context(
            run_redis(home / "redis", *options, host=hosts[0], command=inside)
        )

        def switch(number: int, state: str) -> None:
            _ip(*inside, "ip", "link", "set", f"redis{number}", state)

        yield PartitionedRedis(
            [f"redis://{host}:{redis.port}/0" for host in hosts],
            cut=lambda number: switch(number, "down"),
            heal=lambda number: switch(number, "up"),
        )


def _namespace(holder: RunningProcess) -> Path:
    return Path("/proc", str(holder.server.pid), "ns/net")


def _link(namespace: str, number: int, block: int) -> str:
    """Connect the namespace by a link of its own; Redis's address on it."""
    near, far = (_address(block + one) for one in (1, 2))
    here = f"fc{namespace}.{number}"
    there = f"redis{number}"
    _ip("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", namespace)
    _ip("ip", "address", "add", f"{near}/30", "dev", here)
    _ip("ip", "link", "set", here, "up")
    inside = ("nsenter", "--target", namespace, "--net")
    _ip(*inside, "ip", "address", "add", f"{far}/30", "dev", there)
    _ip(*inside, "ip", "link", "set", there, "up")
    return far


def _address(number: int) -> str:
    return f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def _ip(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


# Relays


class _Relay:
    """Forwards connections to one address, as long as its gate is open; lives in a loop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close all connections."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.closing(writer), contextlib.suppress(OSError):
            await self.gate.wait()
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._port)
            with contextlib.closing(far_writer):
                there = asyncio.create_task(self._pump(reader, far_writer))
                back = asyncio.create_task(self._pump(far_reader, writer))
                try:
                    await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    there.cancel()
                    back.cancel()
                    await asyncio.gather(there, back, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The end of a connection does not pass a cut link either.
        while True:
            data = await reader.read(65_536)
            await self.gate.wait()
            if not data:
                return
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def _with_relays(home: Path, replicas: int) -> Iterator[PartitionedRedis]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_redis(home / "redis"))
        loop = stack.enter_context(_loop_in_thread())
        relays = [_Relay(redis.port) for _ in range(replicas)]

        def call(work: Callable[[], object]) -> None:
            done = threading.Event()
            loop.call_soon_threadsafe(work)
            loop.call_soon_threadsafe(done.set)
            assert done.wait(20)

        ports = [_in(loop, one.start()) for one in relays]
        stack.callback(lambda: [_in(loop, one.stop()) for one in relays])
        yield PartitionedRedis(
            [f"redis://{LOOPBACK}:{one}/0" for one in ports],
            cut=lambda number: call(relays[number].gate.clear),
            heal=lambda number: call(relays[number].gate.set),
        )


def _in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(20)


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
