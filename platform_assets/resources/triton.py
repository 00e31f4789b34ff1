"""Triton as the pipeline sees it: one server, or several that have to serve the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from dagster import ConfigurableResource
from pydantic import Field

from platform_assets.resources.triton_addresses import addresses
from platform_assets.resources.triton_api import (
    TritonError,
    TritonNotReady,
    TritonRefused,
    TritonUnreachable,
)
from platform_assets.resources.triton_endpoint import TritonEndpoint

__all__ = [
    "TritonEndpoint",
    "TritonError",
    "TritonNotReady",
    "TritonRefused",
    "TritonResource",
    "TritonUnreachable",
]

T = TypeVar("T")

_PAUSE_S: Final = 0.2


class TritonResource(ConfigurableResource[None]):
    """The Triton servers in explicit mode that serve together, each with all that is served.

    Most often that is one. Where there are several, READY means READY on every one of them, and
    they are looked up anew for each operation, since pods come and go. Errors are those of
    `TritonEndpoint`, and name the server.
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
        """Return the servers that there are now, at least one."""
        return tuple(
            TritonEndpoint(*address, self.control_key, self.timeout_s, self.load_timeout_s)
            for address in addresses(self.url, self.grpc_url)
        )

    def everywhere(self, ask: Callable[[TritonEndpoint], T]) -> list[T]:
        """Ask every server, one after the other, and return what each answered.

        A server that goes away meanwhile does not count; one that comes is asked as well.

        Raises:
            TritonUnreachable: the only server, or one that stays, does not answer.
            TritonError: the first that `ask` raised; the servers after it were not asked.
        """
        answers: dict[str, T] = {}
        lost: dict[str, TritonUnreachable] = {}
        deadline = time.monotonic() + self.replacement_s
        while True:
            endpoints = self.endpoints()
            missing = [one for one in endpoints if one.url not in answers]
            if not missing:
                return [answers[one.url] for one in endpoints]
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
        """Return the versions that every server has READY by its index, ascending."""
        ready = self.everywhere(lambda one: frozenset(one.ready_versions(model_name)))
        return tuple(sorted(frozenset.intersection(*ready)))

    def ready_anywhere(self, model_name: str) -> tuple[int, ...]:
        """Return the versions that some server has READY: none of them may be taken away."""
        ready = self.everywhere(lambda one: frozenset(one.ready_versions(model_name)))
        return tuple(sorted(frozenset.union(*ready)))

    def version_ready(self, model_name: str, version: int) -> bool:
        """Whether every server's versioned ready endpoint answers yes at this moment."""
        return all(self.everywhere(lambda one: one.version_ready(model_name, version)))

    def wait_until_ready(self, model_name: str, version: int, timeout_s: float = 60.0) -> None:
        """Return once every server is ready, each as `TritonEndpoint.wait_until_ready`."""
        self.everywhere(lambda one: one.wait_until_ready(model_name, version, timeout_s))

    def load(self, model_name: str, config: Mapping[str, object] | None = None) -> None:
        """Load the model on every server; those after one that refuses are left alone."""
        self.everywhere(lambda one: one.load(model_name, config))
