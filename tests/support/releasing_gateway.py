"""A gateway for the pilot's tests: the real transitions on a record, and counts as written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from platform_assets.resources.gateway import (
    GatewayRefused,
    GatewayResource,
    GatewayUnavailable,
    ModelNotHosted,
)
from serving_gateway.contract import (
    EffectiveVersion,
    Mode,
    ModelStatus,
    PhaseEvidence,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseEvidence,
    ReleaseReport,
    ReleaseRequest,
    ReleaseResponse,
    RoutingRecord,
    Slot,
    VersionCounts,
)
from serving_gateway.control import release_transitions as transitions
from serving_gateway.control.transitions import with_slot
from serving_gateway.errors import GatewayError
from tests.support.model_status import model_status

BY = "token:pipeline"


def slot(version: int, mode: Mode = Mode.SSOT) -> Slot:
    return Slot(version, f"run-{version}", "caller", mode)


@dataclass
class Routing:
    """What all replicas share, and what the test decides about it."""

    record: RoutingRecord
    phases: dict[str, PhaseEvidence] = field(default_factory=dict)
    is_down: bool = False
    behind: RoutingRecord | None = None
    """The record by which a replica answers that has missed what came after it."""
    lost_replica: str = ""
    """Why one of the replicas does not answer."""
    evidence_problem: str | None = None
    stop_pending: bool = False
    late: timedelta = timedelta()
    """By how much the gateway's clock is ahead: tests do not wait."""
    calls: list[str] = field(default_factory=list)
    """Changes that were asked for."""

    def now(self) -> str:
        return (datetime.now(UTC) + self.late).isoformat()

    def change(self, record: RoutingRecord) -> RoutingRecord:
        if record != self.record:
            self.record = replace(record, generation=self.record.generation + 1)
        return self.record

    def switch(self, version: int, mode: Mode = Mode.SSOT, by: str = BY) -> None:
        """Reload A, as `gateway_reload` or an operator does."""
        moved = with_slot(self.record, "A", slot(version, mode))
        self.change(transitions.settle(self.record, moved, self.now(), by, "a reload"))

    def count(self, requests: int, failed: int = 0, phase: str | None = None) -> None:
        """Count as many requests of both versions, of which the candidate failed some."""
        release = self.record.release
        assert release is not None
        good, bad = ({123: requests - number} for number in (0, failed))
        self.phases[phase or release.phase] = PhaseEvidence(
            VersionCounts(requests, failed, bad),
            VersionCounts(requests, 0, good),
            compared=requests,
        )


ROUTINGS: dict[str, Routing] = {}
"""By name: Dagster makes copies of resources."""


class ReleasingGateway(GatewayResource):
    """Answers by a `Routing`."""

    urls: str = "http://127.0.0.1:9"
    control_token: str = "none"
    name: str

    @property
    def routing(self) -> Routing:
        found = ROUTINGS[self.name]
        if found.is_down:
            raise GatewayUnavailable("no gateway answers")
        return found

    def model_statuses(self, model_name: str) -> list[ModelStatus]:
        if problem := self.routing.lost_replica:
            raise GatewayUnavailable(problem)
        record = self.routing.record
        effective = {
            alias: EffectiveVersion(
                model_name=model_name,
                version=one.version,
                run_id=one.run_id,
                run_id_source=one.run_id_source,
                mode=one.mode,
                ready=True,
                triton_url="http://triton:8000",
            )
            for alias, one in record.variants.items()
        }
        if not effective:
            return []
        return [model_status(effective, generation=record.generation)]

    def release(self, model_name: str) -> ReleaseReport:
        routing = self.routing
        if not routing.record.variants:
            raise ModelNotHosted("unknown model", status=404, code="unknown_model")
        record = routing.behind or routing.record
        release = record.release
        evidence = ReleaseEvidence(release.id, dict(routing.phases)) if release else None
        return ReleaseReport(
            model_name,
            record.generation,
            release,
            evidence,
            evidence_problem=routing.evidence_problem,
            stop_pending=routing.stop_pending,
        )

    def begin_release(self, model_name: str, request: ReleaseRequest) -> ReleaseResponse:
        routing, at = self._asked("begin"), self.routing.now()
        routing.phases.clear()
        with _refusals():
            routing.change(
                transitions.begin(
                    routing.record, request, slot(request.version), f"release at {at}", at, BY
                )
            )
        return self._answer()

    def advance_release(self, model_name: str, request: ReleaseAdvance) -> ReleaseResponse:
        routing = self._asked(f"advance {request.verdict.value}")
        with _refusals():
            routing.change(transitions.advance(routing.record, request, routing.now(), BY))
        return self._answer()

    def approve_release(self, model_name: str, request: ReleaseDecision) -> ReleaseResponse:
        routing = self._asked("approve")
        with _refusals():
            routing.change(transitions.approve(routing.record, request, routing.now(), BY))
        return self._answer()

    def stop_release(self, model_name: str, request: ReleaseDecision) -> ReleaseResponse:
        routing = self._asked("stop")
        with _refusals():
            routing.change(transitions.stop(routing.record, request, routing.now(), BY))
        return self._answer()

    def _asked(self, what: str) -> Routing:
        self.routing.calls.append(what)
        return self.routing

    def _answer(self) -> ReleaseResponse:
        release = self.routing.record.release
        assert release is not None
        return ReleaseResponse("success", release, self.routing.record.generation, changed=True)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except GatewayError as error:
        raise GatewayRefused(str(error), status=error.status, code=error.code) from error
