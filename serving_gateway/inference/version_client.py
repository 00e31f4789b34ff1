"""One version on one Triton: whether it is READY, and the way to it."""

from __future__ import annotations

import time
from typing import Final

from serving_gateway.contract import Signature
from serving_gateway.errors import (
    BadUpstreamAnswer,
    GatewayError,
    InferenceRefused,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.inference.batcher import Coalescer
from serving_gateway.inference.codec import Answers, Codec
from serving_gateway.inference.readiness import Observation
from serving_gateway.settings import Settings
from serving_gateway.triton.cluster import TritonCluster
from serving_gateway.triton.protocol import signature_from_metadata

_FRESH_SECONDS: Final = 1.0
"""How old a confirmed READY may be for a switch to rely on it without asking again."""


class VersionClient:
    """One version on one Triton, with what is known about it.

    Attributes:
        coalescer: the way to it; None until its signature is known.
    """

    def __init__(
        self,
        triton: TritonCluster,
        model_name: str,
        version: int,
        signature: Signature | None,
        settings: Settings,
    ) -> None:
        self.triton = triton
        self.model_name = model_name
        self.version = version
        self._state = triton.version(model_name, version)
        self.coalescer: Coalescer | None = None
        self._settings = settings
        self._unusable: str | None = None
        self._problem = "not yet confirmed with Triton"
        if signature is not None:
            try:
                self._open(signature)
            except (ValueError, IndexError, KeyError) as error:
                # Whatever a registry or a record holds must not keep others from being served.
                self._unusable = f"The signature of version {version} cannot be used: {error}."

    def _open(self, signature: Signature) -> None:
        settings = self._settings
        self.coalescer = Coalescer(
            self.triton,
            self.model_name,
            self.version,
            Codec(signature),
            max_rows=max(1, min(settings.max_batch_rows, signature.max_batch_rows)),
            max_in_flight=settings.max_in_flight,
            max_queued=settings.max_queued,
            request_seconds=settings.request_seconds,
        )
        self._state.probe_request = self.coalescer.warm_up_request()

    @property
    def ready(self) -> bool:
        """Whether Triton has the version READY, as last seen, and rows can be mapped to it."""
        return self._state.ready and self.coalescer is not None

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        if self.coalescer is None and self._state.ready:
            return self._problem
        return self._state.reason

    def mark_ready(self) -> None:
        """Note that the version is there: Triton said so, or it answered."""
        self._state.mark_ready()

    def mark_unready(self, reason: str) -> None:
        """Note that the version cannot answer."""
        self._state.mark_unready(reason)

    def observation(self) -> Observation:
        """What is known, for the pure rules."""
        at = self._state.confirmed_at
        return Observation(self.ready, self.reason, None if at is None else time.monotonic() - at)

    @property
    def fresh(self) -> bool:
        """Whether Triton confirmed the version a moment ago."""
        age = self.observation().age_seconds
        return self.ready and age is not None and age < _FRESH_SECONDS

    async def require_ready(self) -> None:
        """Ask Triton now, and learn the signature when none is recorded.

        Raises:
            VersionNotReady: Triton says that the version is not READY.
            TritonUnavailable, DeadlineExceeded, BadUpstreamAnswer: it cannot tell.
            VariantUnavailable: rows cannot be mapped to the version's inputs.
        """
        if self._unusable is not None:
            raise VariantUnavailable(self._unusable, code="unsupported_signature")
        limit = self._settings.probe_seconds
        await self.triton.require_ready(self.model_name, self.version, limit)
        await self._learn_signature()

    async def _learn_signature(self) -> None:
        if self.coalescer is not None:
            return
        limit = self._settings.probe_seconds
        found = await self.triton.metadata(self.model_name, limit, self.version)
        if found is None:
            raise VersionNotReady(
                f"Triton at {self.triton.url} lost {self.model_name} version {self.version} "
                "while it was asked about it."
            )
        self._open(signature_from_metadata(found, self.version))

    async def probe(self) -> None:
        """Ask Triton now and note the answer."""
        await self.triton.probe(self.model_name, self.version, self._settings.probe_seconds)
        if self.coalescer is None and self._state.ready:
            try:
                if self._unusable is not None:
                    raise VariantUnavailable(self._unusable)
                await self._learn_signature()
            except GatewayError as error:
                self._problem = error.message

    async def warm_up(self) -> Answers:
        """Run one harmless row through exactly this version.

        Raises:
            VersionNotReady: the inference was refused, or its answer cannot be used.
            TritonUnavailable, DeadlineExceeded: Triton is gone.
        """
        if self.coalescer is None:
            raise VersionNotReady(f"Version {self.version} was not prepared.")
        tensors = self.coalescer.codec.warm_up_rows()
        try:
            return await self.coalescer.submit(tensors, 1, self._settings.warm_up_seconds)
        except (InferenceRefused, BadUpstreamAnswer) as error:
            raise VersionNotReady(
                f"A trial inference through {self.model_name} version {self.version} failed: "
                f"{error.message}",
                code="warm_up_failed",
            ) from error
