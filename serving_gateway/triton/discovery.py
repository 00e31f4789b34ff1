"""Which servers an address stands for."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from serving_gateway.errors import TritonUnavailable


def listed_urls(servers_url: str) -> list[str] | None:
    """The addresses in a list; None for a single one, whose name may stand for several servers."""
    listed = servers_url.split(",")
    return listed if len(listed) > 1 else None


async def server_urls(servers_url: str) -> list[str]:
    """The addresses that a list, or a name with several IP addresses, stands for now.

    Of a name with both kinds the IPv4 addresses are taken: the others are the same servers.

    Raises:
        TritonUnavailable: the name has no address.
    """
    listed = listed_urls(servers_url)
    if listed is not None:
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
