"""What a replica may say about itself: pure, from the routing record and what Triton said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from serving_gateway.contract import EffectiveVersion, RoutingRecord, feature_contract


class Observation(msgspec.Struct, frozen=True):
    """What Triton last said about a variant's version."""

    ready: bool
    reason: str | None = None
    """Why it is not ready."""
    age_seconds: float | None = None
    """Time since READY was last confirmed; None when it never was."""


NEVER_SEEN: Final = Observation(ready=False, reason="not yet confirmed with Triton")


class Lifecycle:
    """Where the process stands between its start and its end."""

    __slots__ = ("draining",)

    def __init__(self) -> None:
        self.draining = False
        """Whether it is about to end: it still answers, and is not ready."""


class Readiness(msgspec.Struct, frozen=True):
    """Whether this replica should get traffic, and if not, why."""

    ready: bool
    reasons: tuple[str, ...] = ()


READY: Final = Readiness(ready=True)


def effective(
    record: RoutingRecord, observed: Mapping[str, Observation], default_triton_url: str
) -> dict[str, EffectiveVersion]:
    """What each variant of the record routes to.

    A variant that Triton was never asked about is not ready: absence of bad news is no news.
    """
    found: dict[str, EffectiveVersion] = {}
    for alias, slot in sorted(record.variants.items()):
        seen = observed.get(alias, NEVER_SEEN)
        found[alias] = EffectiveVersion(
            model_name=slot.model_name or record.model_name,
            version=slot.version,
            run_id=slot.run_id,
            run_id_source=slot.run_id_source,
            mode=slot.mode.value,
            ready=seen.ready,
            reason=seen.reason,
            confirmed_seconds_ago=None if seen.age_seconds is None else round(seen.age_seconds, 3),
            triton_url=slot.triton_url or default_triton_url,
            feature_contract=(
                None if slot.signature is None else feature_contract(slot.signature.features)
            ),
            signature=slot.signature,
            **msgspec.structs.asdict(slot.lineage),
        )
    return found


def readiness(
    production: int | None,
    seen: Observation,
    *,
    draining: bool,
    record_problem: str | None,
) -> Readiness:
    """Judge one model's readiness by variant A and this process alone (I12).

    Args:
        production: the version that A routes to, if any.
        seen: what Triton said about it. Its age says nothing: a version without requests is
            probed only every so often, and one that leaves probes unanswered is not ready.
        draining: whether the process is about to end.
        record_problem: why no routing record could be read; it explains an empty A, and is
            no reason by itself once A is effective (I9).
    """
    reasons: list[str] = []
    if draining:
        reasons.append("the gateway is shutting down")
    if production is None:
        why = record_problem or "nothing was ever reloaded onto it"
        reasons.append(f"variant A has no version: {why}")
    elif not seen.ready:
        reasons.append(f"variant A, version {production}: {seen.reason}")
    return Readiness(ready=False, reasons=tuple(reasons)) if reasons else READY
