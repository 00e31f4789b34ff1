"""Every Triton behind one address, where a Service spreads requests over several."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from serving_gateway.errors import TritonUnavailable

AskOne = Callable[[str], Awaitable[tuple[int, ...]]]
"""Address -> the versions that the Triton there has READY."""


async def versions_ready_on_every_server(servers_url: str, ask: AskOne) -> tuple[int, ...]:
    """The versions that every server has READY, ascending.

    A server that cannot be reached is left out, since no request reaches it either; one that
    does not answer in time is not.

    Raises:
        TritonUnavailable: none can be reached.
        DeadlineExceeded, BadUpstreamAnswer: one did not answer, or not sensibly.
    """

    async def asked(url: str) -> frozenset[int] | TritonUnavailable:
        try:
            return frozenset(await ask(url))
        except TritonUnavailable as error:
            return error

    answers = await asyncio.gather(*map(asked, await server_urls(servers_url)))
    found = [answer for answer in answers if isinstance(answer, frozenset)]
    for answer in answers:
        if not found and isinstance(answer, TritonUnavailable):
            raise answer
    return tuple(sorted(frozenset.intersection(*found)))


async def server_urls(servers_url: str) -> list[str]:
    """The addresses that a list, or a name with several IP addresses, stands for now.

    Of a name with both kinds the IPv4 addresses are taken: the others are the same servers.

    Raises:
        TritonUnavailable: the name has no address.
    """
    listed = servers_url.split(",")
    if len(listed) > 1:
        return listed
    parts = urlsplit(servers_url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise TritonUnavailable(f"No Triton is known at {servers_url}: {error}.") from error
    four = {str(where[0]) for family, *_, where in found if family is socket.AF_INET}
    six = {f"[{where[0]}]" for family, *_, where in found if family is socket.AF_INET6}
    port = "" if parts.port is None else f":{parts.port}"
    return [parts._replace(netloc=f"{host}{port}").geturl() for host in sorted(four or six)]
