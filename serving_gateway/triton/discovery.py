"""Which servers a name stands for."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from serving_gateway.errors import TritonUnavailable


async def server_urls(url: str) -> list[str]:
    """The addresses, by IP, that the name in `url` stands for now; else `TritonUnavailable`.

    Where a name has both kinds, the IPv4 addresses are used: the others are the same servers.
    """
    parts = urlsplit(url)
    try:
        results = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise TritonUnavailable(f"No Triton is known at {url}: {error}.") from error
    ipv4 = {str(where[0]) for family, *_, where in results if family is socket.AF_INET}
    ipv6 = {f"[{where[0]}]" for family, *_, where in results if family is socket.AF_INET6}
    port = "" if parts.port is None else f":{parts.port}"
    return [parts._replace(netloc=f"{host}{port}").geturl() for host in sorted(ipv4 or ipv6)]
