"""One version on one Triton: whether it is READY, and the way to it."""

from __future__ import annotations

import time
from typing import Final

from serving_gateway.contract import Signature
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    VariantUnavailable,
    VersionNotReady,
)
from serving_gateway.inference.batcher import Coalescer
from serving_gateway.inference.codec import Answers, Codec
from serving_gateway.inference.readiness import Observation
from serving_gateway.settings import Settings
from serving_gateway.triton.client import Triton
from serving_gateway.triton.protocol import signature_from_metadata

_FRESH_SECONDS: Final = 1.0
"""How old a confirmed READY may be for a switch to rely on it without asking again."""


class VersionClient:
    """One version on one Triton, with what is known about it.

    Attributes:
        ready: whether Triton has the version READY, as last seen.
        reason: why it is not.
        coalescer: the way to it; None until its signature is known.
    """

    def __init__(
        self,
        triton: Triton,
        model_name: str,
        version: int,
        signature: Signature | None,
        settings: Settings,
    ) -> None:
        self.triton = triton
        self.model_name = model_name
        self.version = version
        self.ready = False
        self.reason: str | None = "not yet confirmed with Triton"
        self.coalescer: Coalescer | None = None
        self._settings = settings
        self._confirmed_at: float | None = None
        self._unanswered_since: float | None = None
        self._unusable: str | None = None
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
            on_answer=self.mark_ready,
        )

    def mark_ready(self) -> None:
        """Note that the version is there: Triton said so, or it answered."""
        self._confirmed_at = time.monotonic()
        self._unanswered_since = None
        if not self.ready and self.coalescer is not None:
            self.ready = True
            self.reason = None

    def mark_unready(self, reason: str) -> None:
        """Note that the version cannot answer."""
        self._unanswered_since = None
        self.ready = False
        self.reason = reason

    def observation(self) -> Observation:
        """What is known, for the pure rules."""
        now, at, since = time.monotonic(), self._confirmed_at, self._unanswered_since
        return Observation(
            self.ready,
            self.reason,
            None if at is None else now - at,
            None if since is None else now - since,
        )

    @property
    def signature(self) -> Signature | None:
        """What the version reads: as recorded, or by Triton's metadata once those are known."""
        return None if self.coalescer is None else self.coalescer.codec.signature

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
        if not await self.triton.version_ready(self.model_name, self.version, limit):
            raise VersionNotReady(
                f"Triton at {self.triton.url} does not have {self.model_name} version "
                f"{self.version} READY."
            )
        if self.coalescer is None:
            found = await self.triton.metadata(self.model_name, limit, self.version)
            if found is None:
                raise VersionNotReady(
                    f"Triton at {self.triton.url} lost {self.model_name} version {self.version} "
                    "while it was asked about it."
                )
            self._open(signature_from_metadata(found, self.version))

    async def probe(self) -> None:
        """Ask Triton now and note the answer.

        A probe that got no answer counts only once that goes on for a while, and no inference was
        answered either: a busy Triton may be slow to say that it is ready.
        """
        if self._unanswered_since is None:
            self._unanswered_since = time.monotonic()
        try:
            await self.require_ready()
        except (DeadlineExceeded, BadUpstreamAnswer) as error:
            seen = self.observation()
            silent = (seen.unanswered_seconds or 0.0) > self._settings.staleness_seconds
            if silent or seen.age_seconds is None:
                self.mark_unready(error.message)
        except GatewayError as error:
            self.mark_unready(error.message)
        else:
            self.mark_ready()

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
