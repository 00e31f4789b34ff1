"""Which servers a name stands for."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from serving_gateway.errors import TritonUnavailable


async def server_urls(url: str) -> list[str]:
    """The addresses, by IP, that the name in `url` stands for now; else `TritonUnavailable`.

    Of a name with both kinds the IPv4 addresses are taken: the others are the same servers.
    """
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise TritonUnavailable(f"No Triton is known at {url}: {error}.") from error
    four = {str(where[0]) for family, *_, where in found if family is socket.AF_INET}
    six = {f"[{where[0]}]" for family, *_, where in found if family is socket.AF_INET6}
    port = "" if parts.port is None else f":{parts.port}"
    return [parts._replace(netloc=f"{host}{port}").geturl() for host in sorted(four or six)]
