"""Which servers an address stands for: the one it names, all of a list, or all behind a name."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from platform_assets.resources.triton_api import TritonError

Resolve = Callable[[str], Sequence[str]]
"""Host name -> its IP addresses; empty where it has none."""


@dataclass(frozen=True, slots=True)
class TritonAddress:
    """Where one server is: its HTTP address, and HOST:PORT of its gRPC (empty without one)."""

    url: str
    grpc_url: str


def resolved(host: str) -> list[str]:
    """Ask the resolver for the IP addresses of a name, sorted; empty where it has none.

    Of a name with both kinds the IPv4 addresses are taken: the others are the same servers.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # whoever connects says better what is wrong with the name
        return []
    by_family = {
        family: {str(where[0]) for f, *_, where in found if f is family}
        for family in (socket.AF_INET, socket.AF_INET6)
    }
    return sorted(by_family[socket.AF_INET] or by_family[socket.AF_INET6])


def addresses(url: str, grpc_url: str, resolve: Resolve = resolved) -> tuple[TritonAddress, ...]:
    """Return the servers that the addresses mean now, at least one.

    Args:
        url: `http://HOST:PORT`, or several, separated by commas. A name that resolves to
            several IP addresses, as that of a headless Service, means all of them.
        grpc_url: `HOST:PORT` of the same servers, in the same order, or empty.
        resolve: looks names up.

    Raises:
        TritonError: the two do not name the same servers.
    """
    urls, grpc_urls = _listed(url), _listed(grpc_url) or [""]
    if len(urls) > 1:
        if grpc_urls == [""]:
            grpc_urls *= len(urls)
        if len(urls) != len(grpc_urls):
            raise TritonError(
                f"{url!r} names {len(urls)} Tritons and {grpc_url!r} {len(grpc_urls)}: give "
                "TRITON_GRPC_URL as many addresses as TRITON_URL, in the same order"
            )
        return tuple(map(TritonAddress, urls, grpc_urls))
    host = _host(url)
    behind = [] if host is None or _is_ip(host) else resolve(host)
    if len(behind) < 2:
        return (TritonAddress(url, grpc_url),)
    if grpc_url and _host(f"http://{grpc_url}") != host:
        raise TritonError(
            f"{host} stands for {len(behind)} Tritons, and {grpc_url!r} is another name: give "
            "TRITON_GRPC_URL the host of TRITON_URL"
        )
    return tuple(
        TritonAddress(_with_host(url, ip), _with_host(f"//{grpc_url}", ip)[2:] if grpc_url else "")
        for ip in behind
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _host(url: str) -> str | None:
    with contextlib.suppress(ValueError):  # whoever connects says what an address looks like
        return urlsplit(url).hostname
    return None


def _is_ip(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _with_host(url: str, ip: str) -> str:
    parts = urlsplit(url)
    host = f"[{ip}]" if ":" in ip else ip
    return parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()
