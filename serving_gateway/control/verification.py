"""What has to hold of a version before a variant may route to it, asked at that moment (I1)."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from serving_gateway.contract import Mode, RoutingRecord, Signature, Slot
from serving_gateway.control.compatibility import require_same_requests
from serving_gateway.control.provenance import resolve_provenance
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

_PREPARE_SECONDS: Final = 1.0
"""Longest that a switch waits for the feature store (I9)."""


class Upstream(msgspec.Struct, frozen=True):
    """Where a version is served."""

    url: str | None
    """Another Triton than the default one."""
    model_name: str
    """Its name in Triton and in the registry."""


class VersionVerifier:
    """Asks Triton and the registry about the versions of one model.

    Args:
        settings: addresses and limits.
        router: the clients to Triton.
        registry: knows the run and the signature of a version; None when there is none.
        features: looks features up; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        registry: Registry | None,
        features: FeatureReader | None,
    ) -> None:
        self._settings = settings
        self._router = router
        self._registry = registry
        self._features = features
        self._preparing: set[asyncio.Task[None]] = set()

    def upstream(self, alias: str) -> Upstream:
        """Where a variant's versions are served."""
        own = self._router.model_name
        if alias != B:
            return Upstream(None, own)
        settings = self._settings
        # Another name for B is that of the default model's B alone.
        name = settings.shadow_model_name if own == settings.model_name else None
        return Upstream(settings.shadow_triton_url, name or own)

    def upstream_of(self, slot: Slot) -> Upstream:
        """Where the version of a slot is served."""
        return Upstream(slot.triton_url, slot.model_name or self._router.model_name)

    async def ready_versions(self, upstream: Upstream) -> tuple[int, ...]:
        """What Triton says is READY, asked now.

        Raises:
            TritonUnavailable: it cannot tell.
        """
        triton = self._router.triton(upstream.url)
        try:
            return await triton.ready_versions(upstream.model_name, self._settings.probe_seconds)
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error

    async def require_among(self, ready: tuple[int, ...], upstream: Upstream, version: int) -> None:
        """Make sure that a version is among those that are READY.

        Raises:
            NotFound: neither Triton nor the registry knows it.
            VersionNotReady: it may exist, but is not READY.
        """
        if version in ready:
            return
        listed = ", ".join(map(str, ready)) or "none"
        name = upstream.model_name
        if self._registry is not None:
            try:
                known = await self._registry.version(name, version)
            except (RegistryUnavailable, Conflict):
                pass  # it may well exist, so it is "not READY"
            else:
                if known is None:
                    raise NotFound(
                        f"{name} version {version} is neither in Triton (READY: {listed}) nor in "
                        "the registry.",
                        code="unknown_version",
                    )
        raise VersionNotReady(
            f"Triton at {self._router.triton(upstream.url).url} does not have {name} version "
            f"{version} READY (READY: {listed}). Load it first, then ask again."
        )

    async def resolve_slot(
        self,
        record: RoutingRecord,
        upstream: Upstream,
        version: int,
        mode: Mode,
        claimed: str | None,
    ) -> Slot:
        """The slot of a version, with all that is known of where it came from.

        Raises:
            Conflict, Unavailable: its run is not known, or two sources contradict each other.
        """
        name = upstream.model_name
        found = await resolve_provenance(self._registry, record, name, version, claimed)
        return Slot(
            version=version,
            run_id=found.run_id,
            run_id_source=found.source,
            mode=mode,
            signature=found.signature,
            model_name=None if name == record.model_name else name,
            triton_url=upstream.url,
            lineage=found.lineage,
        )

    async def verify(self, slot: Slot) -> VersionClient:
        """Confirm READY by the versioned endpoint and run a trial inference.

        Features are prepared too, so that the first look-up does not have to do it in its own
        short time; whether they can be does not matter for the change (I9).

        Raises:
            VersionNotReady, VariantUnavailable: the version cannot answer.
            TritonUnavailable: Triton cannot tell.
        """
        client = self._router.client(slot)
        try:
            await client.require_ready()
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error
        preparing = self._prepare(slot)
        await client.warm_up()
        if preparing:
            await asyncio.wait(preparing, timeout=_PREPARE_SECONDS)
        client.mark_ready()
        return client

    async def require_split(self, a: Slot, b: Slot) -> None:
        """Make sure that B can answer what A's clients send.

        A signature that is not recorded is taken from Triton's metadata.

        Raises:
            Conflict: it cannot, or a version is not READY.
            TritonUnavailable, VariantUnavailable: Triton cannot tell.
        """
        read = [await self._signature(slot) for slot in (a, b)]
        named = a.signature is not None and b.signature is not None
        require_same_requests(read[0], read[1], named=named)

    async def _signature(self, slot: Slot) -> Signature:
        client = self._router.client(slot)
        if slot.signature is None and client.signature is None:
            try:
                await client.require_ready()
            except DeadlineExceeded as error:
                raise TritonUnavailable(error.message) from error
        found = slot.signature or client.signature
        if found is None:
            raise VariantUnavailable(
                f"What version {slot.version} reads is not recorded, and Triton does not say.",
                code="unsupported_signature",
            )
        return found

    def _prepare(self, slot: Slot) -> set[asyncio.Task[None]]:
        """Have the slot's features prepared; that goes on when it takes longer than a switch."""
        service = None if slot.signature is None else slot.signature.feature_service
        if self._features is None or service is None:
            return set()
        task = asyncio.create_task(self._features.prepare(service))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        return {task}
