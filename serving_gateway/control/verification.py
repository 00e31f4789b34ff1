"""What has to hold of a version before a variant may route to it, asked at that moment (I1)."""

from __future__ import annotations

import msgspec

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.control.provenance import resolve_provenance
from serving_gateway.control.registry import Registry
from serving_gateway.errors import (
    Conflict,
    DeadlineExceeded,
    NotFound,
    RegistryUnavailable,
    TritonUnavailable,
    VersionNotReady,
)
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.router import Router
from serving_gateway.inference.traffic import B
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.settings import Settings


class Place(msgspec.Struct, frozen=True):
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
        registry: tells the run and the signature of a version; None when there is none.
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

    def place(self, alias: str) -> Place:
        """Where a variant's versions are served."""
        own = self._router.model_name
        if alias != B:
            return Place(None, own)
        settings = self._settings
        # Another name for B is that of the default model's B alone.
        name = settings.shadow_model_name if own == settings.model_name else None
        return Place(settings.shadow_triton_url, name or own)

    def place_of(self, slot: Slot) -> Place:
        """Where the version of a slot is served."""
        return Place(slot.triton_url, slot.model_name or self._router.model_name)

    async def ready_versions(self, place: Place) -> tuple[int, ...]:
        """What Triton says is READY, asked now.

        Raises:
            TritonUnavailable: it cannot tell.
        """
        triton = self._router.triton(place.url)
        try:
            return await triton.ready_versions(place.model_name, self._settings.probe_seconds)
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error

    async def require_among(self, ready: tuple[int, ...], place: Place, version: int) -> None:
        """Make sure that a version is among those that are READY.

        Raises:
            NotFound: neither Triton nor the registry knows it.
            VersionNotReady: it may exist, but is not READY.
        """
        if version in ready:
            return
        listed = ", ".join(map(str, ready)) or "none"
        name = place.model_name
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
            f"Triton at {self._router.triton(place.url).url} does not have {name} version "
            f"{version} READY (READY: {listed}). Load it first, then ask again."
        )

    async def vouched(
        self, record: RoutingRecord, place: Place, version: int, mode: Mode, claimed: str | None
    ) -> Slot:
        """The slot of a version, with all that is known of where it came from.

        Raises:
            Conflict, Unavailable: nobody vouches for it, or two contradict each other.
        """
        name = place.model_name
        found = await resolve_provenance(self._registry, record, name, version, claimed)
        return Slot(
            version=version,
            run_id=found.run_id,
            run_id_source=found.source,
            mode=mode,
            signature=found.signature,
            model_name=None if name == record.model_name else name,
            triton_url=place.url,
            lineage=found.lineage,
        )

    async def prove(self, slot: Slot) -> VersionClient:
        """Confirm READY by the versioned endpoint and run a trial inference.

        Features are prepared too, so that the first look-up does not have to do it in its own
        short time; whether they can be is no matter for the change (I9).

        Raises:
            VersionNotReady, VariantUnavailable: the version cannot answer.
            TritonUnavailable: Triton cannot tell.
        """
        client = self._router.client(slot)
        try:
            await client.require_ready()
        except DeadlineExceeded as error:
            raise TritonUnavailable(error.message) from error
        await client.warm_up()
        signature = slot.signature
        if self._features is not None and signature is not None and signature.feature_service:
            await self._features.prepare(signature.feature_service)
        client.mark_ready()
        return client
