"""Checks that a version must pass, at that moment, before a variant may route to it (I1)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from serving_gateway.contract import Signature, Slot
from serving_gateway.control.compatibility import require_same_requests
from serving_gateway.control.provenance import Upstream
from serving_gateway.control.registry import Registry
from serving_gateway.errors import (
    Conflict,
    DeadlineExceeded,
    NotFound,
    RegistryUnavailable,
    TritonUnavailable,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.router import Router
from serving_gateway.inference.traffic import B
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.settings import Settings


@dataclass(slots=True, eq=False)
class VersionVerifier:
    """Asks Triton and the registry about the versions of one model."""

    settings: Settings
    router: Router
    registry: Registry | None
    features: FeatureReader | None

    def upstream(self, alias: str) -> Upstream:
        """Where a variant's versions are served."""
        own, settings = self.router.model_name, self.settings
        if alias != B:
            return Upstream(None, own)
        # The configured name of B applies to the default model's B alone.
        name = settings.shadow_model_name if own == settings.model_name else None
        return Upstream(settings.shadow_triton_url, name or own)

    def upstream_of(self, slot: Slot) -> Upstream:
        """Where the version of a slot is served."""
        return Upstream(slot.triton_url, slot.model_name or self.router.model_name)

    async def ready_versions(self, upstream: Upstream) -> tuple[int, ...]:
        """The versions that Triton reports READY now; `TritonUnavailable` when it cannot tell."""
        triton = self.router.triton(upstream.url)
        with _timeout_as_unavailable():
            return await triton.ready_versions(upstream.model_name, self.settings.probe_seconds)

    async def require_ready(self, ready: tuple[int, ...], upstream: Upstream, version: int) -> None:
        """Require READY; `NotFound` if the registry lacks it too, else `VersionNotReady`."""
        if version in ready:
            return
        listed = ", ".join(map(str, ready)) or "none"
        which = f"{upstream.model_name} version {version}"
        # If the registry cannot tell, the version may well exist.
        with contextlib.suppress(RegistryUnavailable, Conflict):
            if self.registry and not await self.registry.version(upstream.model_name, version):
                raise NotFound(
                    f"{which} is neither in Triton (READY: {listed}) nor in the registry.",
                    code="unknown_version",
                )
        raise VersionNotReady(
            f"Triton at {self.router.triton(upstream.url).url} does not have {which} READY "
            f"(READY: {listed}). Load it first, then ask again."
        )

    async def verify(self, slot: Slot) -> VersionClient:
        """Confirm READY by the versioned endpoint and run a trial inference.

        Features are prepared too; whether that succeeds does not matter (I9). `VersionNotReady` or
        `VariantUnavailable` when the version cannot answer, `TritonUnavailable` when Triton cannot
        tell.
        """
        client = self.router.client(slot)
        with _timeout_as_unavailable():
            await client.require_ready()
        await asyncio.gather(client.warm_up(), self._prepare(slot))
        client.state.mark_ready()
        return client

    async def require_split(self, a: Slot, b: Slot) -> None:
        """Make sure that B can answer what A's clients send, else `Conflict`; may ask Triton."""
        named = a.signature is not None and b.signature is not None
        require_same_requests(await self._signature(a), await self._signature(b), named=named)

    async def _signature(self, slot: Slot) -> Signature:
        """The signature of a version: as recorded, or from Triton's metadata."""
        client = self.router.client(slot)
        if slot.signature is None and client.signature is None:
            with _timeout_as_unavailable():
                await client.require_ready()
        signature = slot.signature or client.signature
        if signature is None:
            raise VariantUnavailable(
                f"What version {slot.version} reads is not recorded, and Triton does not say.",
                code="unsupported_signature",
            )
        return signature

    async def _prepare(self, slot: Slot) -> None:
        """Wait briefly for the slot's features; the reader then continues by itself."""
        service = slot.signature.feature_service if slot.signature else None
        if self.features is not None and service is not None:
            await self.features.prepare(service)


@contextlib.contextmanager
def _timeout_as_unavailable() -> Iterator[None]:
    """Treat a Triton that is too slow to answer as one that is unavailable."""
    try:
        yield
    except DeadlineExceeded as error:
        raise TritonUnavailable(error.message) from error
