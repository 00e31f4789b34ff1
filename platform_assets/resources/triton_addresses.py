"""Resolve a Triton address: one server, a list, or all servers behind a name."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from platform_assets.resources.triton_api import TritonError

Resolve = Callable[[str], Sequence[str]]
"""Host name -> its IP addresses; empty where it has none."""


class TritonAddress(NamedTuple):
    """Where one server is: its HTTP address, and HOST:PORT of its gRPC (empty without one)."""

    url: str
    grpc_url: str


def resolved(host: str) -> list[str]:
    """Return the sorted IP addresses of a name: IPv4 where it has both kinds (same servers)."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # connecting gives the better reason
        return []
    by_family: dict[int, set[str]] = {socket.AF_INET: set(), socket.AF_INET6: set()}
    for family, *_, where in entries:
        by_family[family].add(str(where[0]))
    return sorted(by_family[socket.AF_INET] or by_family[socket.AF_INET6])


def addresses(url: str, grpc_url: str, resolve: Resolve = resolved) -> tuple[TritonAddress, ...]:
    """Return the servers that the addresses mean now, at least one.

    `url` is `http://HOST:PORT`, or several, separated by commas; a name that resolves to several
    IP addresses (a headless Service) means all of them. `grpc_url` is `HOST:PORT` of the same
    servers in the same order, or empty.

    Raises:
        TritonError: the two do not name the same servers.
    """
    urls, grpc_urls = _listed(url), _listed(grpc_url)
    if len(urls) > 1:
        grpc_urls = grpc_urls or [""] * len(urls)
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
    grpc = f"//{grpc_url}" if grpc_url else ""
    return tuple(
        TritonAddress(_with_host(url, ip), grpc and _with_host(grpc, ip)[2:]) for ip in behind
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _host(url: str) -> str | None:
    with contextlib.suppress(ValueError):  # connecting gives the better reason
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
