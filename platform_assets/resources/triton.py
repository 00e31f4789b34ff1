"""Triton as the pipeline uses it: one server, or several that must serve the same models."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from dagster import ConfigurableResource
from pydantic import Field

from platform_assets.resources.triton_api import (
    TritonError,
    TritonNotReady,
    TritonRefused,
    TritonUnreachable,
)
from platform_assets.resources.triton_endpoint import TritonEndpoint

__all__ = [
    "TritonAddress",
    "TritonEndpoint",
    "TritonError",
    "TritonNotReady",
    "TritonRefused",
    "TritonResource",
    "TritonUnreachable",
    "addresses",
    "resolve_host",
]

T = TypeVar("T")

_PAUSE_S: Final = 0.2

Resolve = Callable[[str], Sequence[str]]
"""Host name -> its IP addresses; empty if it has none."""


class TritonResource(ConfigurableResource[None]):
    """The Triton servers in explicit mode, each of which serves everything.

    Usually there is one. With several, READY means READY on all of them, and they are looked up
    anew for each operation, since pods come and go. Raises as `TritonEndpoint` does, naming the
    server.
    """

    url: str = Field(
        description=(
            "HTTP address of Triton, such as http://127.0.0.1:8000. Several, separated by commas, "
            "or a name that resolves to several IP addresses (a headless Service) mean all of them"
        )
    )
    grpc_url: str = Field(
        default="",
        description=(
            "HOST:PORT of Triton's gRPC, over which models are loaded and unloaded; as many as "
            "`url` has. Without it that is done over HTTP, where Triton stops answering many "
            "connections meanwhile"
        ),
    )
    control_key: str = Field(
        description="Secret that opens the repository API; give it as EnvVar", repr=False
    )
    timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for an answer")
    load_timeout_s: float = Field(
        default=120.0, gt=0, description="Seconds to wait for a model to be loaded or unloaded"
    )
    replacement_s: float = Field(
        default=60.0,
        ge=0,
        description=(
            "Seconds that one of several servers has to answer or to leave the name, as a pod "
            "does that is replaced (name servers remember it for half a minute); a single server "
            "is not waited for"
        ),
    )

    def endpoints(self) -> tuple[TritonEndpoint, ...]:
        """Return the current servers, at least one."""
        return tuple(
            TritonEndpoint(*address, self.control_key, self.timeout_s, self.load_timeout_s)
            for address in addresses(self.url, self.grpc_url)
        )

    def everywhere(self, ask: Callable[[TritonEndpoint], T]) -> list[T]:
        """Call `ask` for every server, one after the other, and return the results.

        A server that goes away meanwhile is skipped; one that appears is asked as well.

        Raises:
            TritonUnreachable: the only server, or one that stays, does not answer.
            TritonError: the first one raised by `ask`; later servers were not asked.
        """
        answers: dict[str, T] = {}
        lost: dict[str, TritonUnreachable] = {}
        deadline = time.monotonic() + self.replacement_s
        while True:
            endpoints = self.endpoints()
            missing = [endpoint for endpoint in endpoints if endpoint.url not in answers]
            if not missing:
                return [answers[endpoint.url] for endpoint in endpoints]
            over = len(endpoints) == 1 or time.monotonic() >= deadline
            for endpoint in missing:
                if over and endpoint.url in lost:
                    raise lost[endpoint.url]
                try:
                    answers[endpoint.url] = ask(endpoint)
                except TritonUnreachable as error:
                    lost[endpoint.url] = error
            if lost and not over:
                time.sleep(_PAUSE_S)

    def ready_versions(self, model_name: str) -> tuple[int, ...]:
        """Return the versions that are READY in every server's index, ascending."""
        ready = self.everywhere(lambda endpoint: frozenset(endpoint.ready_versions(model_name)))
        return tuple(sorted(frozenset.intersection(*ready)))

    def ready_anywhere(self, model_name: str) -> tuple[int, ...]:
        """Return the versions that any server has READY, which must not be unloaded."""
        ready = self.everywhere(lambda endpoint: frozenset(endpoint.ready_versions(model_name)))
        return tuple(sorted(frozenset.union(*ready)))

    def version_ready(self, model_name: str, version: int) -> bool:
        """Whether every server's versioned ready endpoint answers yes at this moment."""
        return all(self.everywhere(lambda endpoint: endpoint.version_ready(model_name, version)))

    def wait_until_ready(self, model_name: str, version: int, timeout_s: float = 60.0) -> None:
        """Return once every server is ready, each as `TritonEndpoint.wait_until_ready`."""
        self.everywhere(lambda endpoint: endpoint.wait_until_ready(model_name, version, timeout_s))

    def load(self, model_name: str, config: Mapping[str, object] | None = None) -> None:
        """Load the model on every server, up to the first one that refuses."""
        self.everywhere(lambda endpoint: endpoint.load(model_name, config))


class TritonAddress(NamedTuple):
    """Addresses of one server: HTTP, and HOST:PORT of gRPC (empty without one)."""

    url: str
    grpc_url: str


def resolve_host(host: str) -> list[str]:
    """Return the sorted IP addresses of a name; only IPv4 if it has both (the same servers)."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # connecting will give a better reason
        return []
    by_family: dict[int, set[str]] = {socket.AF_INET: set(), socket.AF_INET6: set()}
    for family, *_, where in entries:
        by_family[family].add(str(where[0]))
    return sorted(by_family[socket.AF_INET] or by_family[socket.AF_INET6])


def addresses(
    url: str, grpc_url: str, resolve: Resolve = resolve_host
) -> tuple[TritonAddress, ...]:
    """Resolve the addresses to the current servers, at least one.

    `url` is `http://HOST:PORT`, or several, separated by commas; a name with several IP addresses
    (a headless Service) stands for all of them. `grpc_url` is `HOST:PORT` of the same servers in
    the same order, or empty.

    Raises:
        TritonError: the two do not name the same servers.
    """
    urls, grpc_urls = _split_list(url), _split_list(grpc_url)
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


def _split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _host(url: str) -> str | None:
    with contextlib.suppress(ValueError):  # connecting will give a better reason
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
