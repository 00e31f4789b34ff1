"""A release: the path of a READY candidate from variant B to A, in steps, each ended by a verdict.

Its state is part of the routing record, so that every replica, and a restarted system, goes on
from it. What the replicas count meanwhile is `ReleaseEvidence`: sums only, which can be added.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from serving_gateway.contract.struct import Struct
from serving_gateway.contract.traffic import Traffic

MOST_STEPS: Final = 50
MOST_REQUESTS: Final = 10**9
"""Largest minimum of requests of a step."""
LONGEST_SECONDS: Final = 366 * 86_400.0
"""Of each duration in a plan."""
LARGEST_RATIO: Final = 1_000.0
"""Largest margin of `latency_p99`."""

WATCH: Final = "watch"
"""Name, among the phases of `ReleaseEvidence`, of the time after the switch; steps have their
index as text."""


class Guard(StrEnum):
    """What may not become worse than a margin, comparing the candidate with production."""

    FAILURES = "failures"
    """Share of requests that are not answered: the candidate's minus production's."""
    LATENCY_P99 = "latency_p99"
    """99th percentile of the latency: the candidate's over production's."""
    DISAGREEMENT = "disagreement"
    """Share of mirrored rows that both answer differently: with another label or, for a
    regression, with numbers that differ by more than the margin of `score_shift` (0.1 without
    one) times `ReleasePlan.score_scale`."""
    SCORE_SHIFT = "score_shift"
    """Mean difference of the scores of mirrored rows, in units of `ReleasePlan.score_scale`, each
    limited to -1 and 1. The score of a row is its largest probability, or else its number."""
    OUTCOME = "outcome"
    """Mean loss on mirrored rows whose outcome is known: the candidate's minus production's."""


class Verdict(StrEnum):
    """How a step ends, or that it does not yet."""

    GO = "go"
    STOP = "stop"
    NOT_YET = "not yet"


class Approval(StrEnum):
    """What a named principal has to approve."""

    BEFORE_TRAFFIC = "before_traffic"
    """The first step in which the candidate gets requests or copies of them."""
    BEFORE_SWITCH = "before_switch"
    NONE = "none"


class ReleaseState(StrEnum):
    """Where a release is."""

    WAITING = "waiting"
    """For an approval. What the present step routes goes on."""
    RUNNING = "running"
    """In a step."""
    CLEARED = "cleared"
    """All steps ended with go, and what had to be approved is: the switch may follow."""
    WATCHING = "watching"
    """A is the candidate; B, mirrored, is the version before."""
    COMPLETED = "completed"
    STOPPED = "stopped"
    """A has answered all clients since. It never left its version, unless the watch was ended, or
    an operator moved it: `reason` says so."""
    ROLLED_BACK = "rolled_back"
    """A went back to the version before, and is pinned there."""


ACTIVE: Final = frozenset(
    {
        ReleaseState.WAITING,
        ReleaseState.RUNNING,
        ReleaseState.CLEARED,
        ReleaseState.WATCHING,
    }
)
"""States in which a release has not ended."""


class ReleasePlan(Struct, frozen=True):
    """How a model's versions are released, as its file says; times in seconds.

    `guardrails` maps each guard that is watched to its margin: `latency_p99` is a ratio, all
    others are differences or shares from 0 to 1. `unproven` names guards that need not be shown
    within their margin before the switch; one that is broken stops the release all the same.
    `score_scale` is the width of a regression's predictions on held-out rows, and 1 for
    probabilities.
    """

    steps: tuple[Traffic, ...]
    requests: int = 500
    """Least number of requests, or copies, that the candidate gets in a step."""
    seconds: float = 600.0
    """Least duration of a step."""
    give_up_seconds: float = 86_400.0
    """Duration of a step after which an inconclusive one stops the release."""
    guardrails: dict[Guard, float] = msgspec.field(default_factory=dict)
    watch_seconds: float = 1_800.0
    approval: Approval = Approval.NONE
    unproven: tuple[Guard, ...] = ()
    score_scale: float = 1.0


class ReleaseAct(Struct, frozen=True):
    """What was decided about a release: an approval, or the verdict of a step.

    `phase` is one of `ReleaseEvidence`'s; `by` the name of a control token, or the replica that
    withdrew its candidate; `at` is RFC 3339 in UTC.
    """

    phase: str
    verdict: Verdict
    at: str
    by: str
    reason: str
    is_approval: bool = False


class Release(Struct, frozen=True):
    """A release and how far it is; times are RFC 3339 in UTC."""

    id: str
    """Never used twice."""
    version: int
    run_id: str
    previous_version: int
    """That A routed to when it began."""
    plan: ReleasePlan
    state: ReleaseState
    step: int
    """Index of the present step, or of the last one that was entered."""
    since: str
    """When the present state or step began."""
    started_at: str
    by: str
    acts: tuple[ReleaseAct, ...] = ()
    """Oldest first."""
    reason: str | None = None
    """Why it ended."""

    @property
    def phase(self) -> str:
        """The name under which evidence is counted now."""
        return WATCH if self.state is ReleaseState.WATCHING else str(self.step)


class VersionCounts(Struct, frozen=True):
    """Requests of one version in one phase; platform requests are not among them."""

    requests: int = 0
    """Those that it answered, failed, or had its share of when the client left."""
    failed: int = 0
    latencies: dict[int, int] = msgspec.field(default_factory=dict)
    """Answered requests by the bucket of `LATENCY_EDGES` (the last index is beyond all edges)."""


class PhaseEvidence(Struct, frozen=True):
    """What the replicas counted in one phase. All numbers add up over replicas and restarts."""

    candidate: VersionCounts = VersionCounts()
    reference: VersionCounts = VersionCounts()
    compared: int = 0
    """Mirrored requests that both answered. Of several rows, which may resemble each other, one
    that is chosen evenly says whether the answers disagree."""
    disagreed: int = 0
    shift: float = 0.0
    """Sum over these requests of the mean of the candidate's scores minus the reference's, in units
    of `score_scale`, each limited to -1 and 1."""
    shift_squares: float = 0.0


class ReleaseEvidence(Struct, frozen=True):
    """What was counted of a release, by phase."""

    release_id: str
    phases: dict[str, PhaseEvidence] = msgspec.field(default_factory=dict)


class GuardReport(Struct, frozen=True):
    """A guard's estimate with bounds that hold while they are watched; null without data."""

    guard: Guard
    margin: float
    verdict: Verdict
    """`go`: shown within its margin. `stop`: broken beyond doubt. Else `not yet`."""
    observations: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class ReleaseReport(Struct, frozen=True):
    """Body of `GET /models/{model_name}/release`.

    `release` is the present one or the last; null when there never was one. `guards` judge all
    evidence of the present phase's side of the switch, without outcomes, which the pipeline
    joins: it adds that guard.
    """

    model_name: str
    generation: int
    release: Release | None
    evidence: ReleaseEvidence | None
    replicas: tuple[str, ...] = ()
    """Processes whose counts are among the evidence, also ended ones."""
    guards: tuple[GuardReport, ...] = ()
    verdict: Verdict = Verdict.NOT_YET
    reason: str | None = None
    evidence_problem: str | None = None
    """Why counts of other replicas may be missing."""
    stop_pending: bool = False
    """Whether this replica has stopped the release for its own clients, and could not yet write
    that into the routing record."""


class ReleaseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /models/{model_name}/release`: begins a release.

    One that is active for another version is stopped by it, as superseded.
    """

    version: int
    run_id: str
    plan: ReleasePlan
    reason: str | None = None
    feature_contract: str | None = None


class ReleaseAdvance(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /models/{model_name}/release/advance`: the verdict of the present phase.

    Refused (409) unless the release still has this id, state and step.
    """

    id: str
    state: ReleaseState
    step: int
    verdict: Verdict
    reason: str


class ReleaseDecision(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /models/{model_name}/release/approve` and `/stop`; `id`: only that one."""

    reason: str
    id: str | None = None


class ReleaseResponse(Struct, frozen=True):
    """Body of a change of a release that was carried out.

    `status` is `success`, or `stop_pending` (202): the candidate answers no client of the replica
    that answers, which goes on trying to write the stop into the store.
    """

    status: str
    release: Release
    generation: int
    changed: bool
