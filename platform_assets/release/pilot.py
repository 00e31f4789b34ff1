"""The pilot of one model's releases: reads the routing record, decides, and requests the next step.

All state is in the routing record. The pilot's memory only avoids repeated messages and requests;
losing it does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Final

import dagster as dg
from msgspec.structs import replace

from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec, ReleaseSpec, to_plan
from platform_assets.release.alerts import alert_text, refusal_text
from platform_assets.release.candidate import (
    open_gates,
    release_obstacle,
    score_scale,
    waiting_note,
)
from platform_assets.release.losses import Losses
from platform_assets.release.memory import PilotMemory, TickResult, release_place
from platform_assets.release.promotion_runs import request_promotion
from platform_assets.release.record import decision_events, describe_place
from platform_assets.resources.gateway import GatewayRefused, GatewayResource, GatewayUnavailable
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.serving.ledger import read_ledger
from platform_assets.serving.ledger_entries import LedgerWriter
from platform_assets.serving.loads import newest_load
from platform_assets.serving.records import ServingState
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import (
    ACTIVE,
    BoundedMean,
    EffectiveVersion,
    Guard,
    GuardReport,
    PairedLosses,
    PairedOutcomes,
    Release,
    ReleaseAdvance,
    ReleaseEvidence,
    ReleaseReport,
    ReleaseRequest,
    ReleaseState,
    Verdict,
    decide,
    judge_guards,
)

NOT_YET_S: Final = 600.0
"""Seconds between two records of a release while nothing is decided about it."""
_ASK_AGAIN_S: Final = 60.0
_JOIN_OUTCOMES_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pilot:
    """Advances one model's releases as far as the evidence allows."""

    spec: ModelSpec
    steps: ReleaseSpec
    gateway: GatewayResource
    mlflow: MlflowResource
    ledger: LedgerFolder
    losses: Losses
    instance: dg.DagsterInstance
    now: datetime
    memory: PilotMemory
    """Updated in place."""
    result: TickResult = field(default_factory=TickResult)

    def tick(self, *, is_busy: bool) -> TickResult:
        """Read the state, and carry out at most one decision.

        `is_busy` says that a run is loading or switching a version of the model.

        Raises:
            GatewayClientError: the gateway cannot be asked, or refuses; nothing changed.
        """
        production, report, unreachable = self._read_gateway()
        release = report.release if report is not None else None
        if release is not None:
            self._note_change(release)
        if report is not None and release is not None and release.state in ACTIVE:
            self._follow(report, release)
            if note := waiting_note(self.spec, newest_load(self.instance, self.spec), release):
                self.result.summary = f"{self.result.summary}; {note}"
        elif unreachable:
            self.result.summary = f"no release begins: {unreachable}"
        elif is_busy:
            self.result.summary = "a run is loading or switching a version"
        else:
            self._begin(production, release)
        return self.result

    def _read_gateway(self) -> tuple[EffectiveVersion | None, ReleaseReport | None, str]:
        """Return production (None if any replica is unreachable), its release, and the problem.

        One replica that answers is enough to stop a release.
        """
        name = self.spec.model_name
        try:
            statuses = self.gateway.model_statuses(name)
        except GatewayUnavailable as error:
            report, problem = self.gateway.release(name), str(error)
            # The missing replica's newest counts may be the bad ones.
            report = replace(report, evidence_problem=report.evidence_problem or problem)
            return None, report, problem
        if not statuses:
            return None, None, ""
        newest = max(statuses, key=lambda status: status.routing.generation)
        production = newest.effective.get(PRODUCTION)
        if production is None:
            return None, None, ""
        report = self.gateway.release(name)
        own, last = report.generation, newest.routing.generation
        if own < last:
            # Its release was changed elsewhere in the meantime: draw no conclusions from it.
            problem = f"a replica that is behind answered, by generation {own} instead of {last}"
            return None, None, problem
        return production, report, ""

    def _begin(self, production: EffectiveVersion | None, last: Release | None) -> None:
        memory, load = self.memory, newest_load(self.instance, self.spec)
        self.result.summary = release_obstacle(load, production, last, memory.released_load) or ""
        if self.result.summary or load is None:
            return
        is_known = memory.waiting_load == load.state.load_id
        if not is_known or self.now.timestamp() >= memory.asked_at + _ASK_AGAIN_S:
            reported = memory.obstacle if is_known else ""
            memory.waiting_load, memory.asked_at = load.state.load_id, self.now.timestamp()
            before = len(self.result.alerts)
            memory.obstacle = open_gates(load, self.instance) or ""
            if not memory.obstacle and production is not None:
                memory.obstacle = self._begin_release(load.state)
            if memory.obstacle and memory.obstacle == reported:
                del self.result.alerts[before:]  # people have it already
        if memory.obstacle:
            self.result.summary = f"version {load.state.version} waits: {memory.obstacle}"
        elif production is None:
            self._promote_first(load.state)

    def _begin_release(self, state: ServingState) -> str:
        """Begin a release; return why the version cannot be released yet, else ""."""
        reason = f"version {state.version} passed its gates"
        try:
            scale = score_scale(self.spec, state.run_id, self.mlflow)
            request = ReleaseRequest(
                version=state.version,
                run_id=state.run_id,
                plan=to_plan(self.steps, scale),
                reason=reason,
                feature_contract=self.spec.contract,
            )
            begun = self.gateway.begin_release(self.spec.model_name, request).release
        except RegistryError as error:
            return str(error)
        except GatewayRefused as refusal:
            # It may last, such as a warm-up that fails: without a message it would go unnoticed.
            self.result.alerts.append(refusal_text(self.spec, state.version, str(refusal)))
            return str(refusal)
        self.memory.released_load = state.load_id
        self._record(begun, (), Verdict.GO, reason)
        return ""

    def _promote_first(self, state: ServingState) -> None:
        """Switch to the first version at once: there is none to compare it with."""
        if ledger := read_ledger(self.instance, self.spec, limit=1):
            self.result.summary = (
                f"nothing is in production, where version {ledger[0].version} was: restore that "
                f"one by the job {self.spec.model_name}_rollback"
            )
            return
        self._promote(f"first version, load {state.load_id}")

    def _follow(self, report: ReleaseReport, release: Release) -> None:
        evidence = report.evidence or ReleaseEvidence(release.id)
        guards = judge_guards(release.plan, release, evidence, self._joined_losses(release))
        verdict, reason = decide(release, guards, evidence, self.now)
        if report.stop_pending:
            verdict, reason = Verdict.NOT_YET, "a stop is in effect and not yet written down"
        elif (
            # The missing evidence may be the bad one; after the switch, time decides instead.
            verdict is Verdict.GO
            and release.state is ReleaseState.RUNNING
            and report.evidence_problem
        ):
            verdict, reason = Verdict.NOT_YET, report.evidence_problem
        self.result.summary = f"version {release.version}, {describe_place(release)}: {reason}"
        if verdict is not Verdict.NOT_YET:
            self._advance(release, guards, verdict, reason)
        elif self.now.timestamp() >= self.memory.recorded_at + NOT_YET_S:
            self._record(release, guards, verdict, reason)
        if release.state is ReleaseState.CLEARED and verdict is Verdict.NOT_YET:
            self._promote(f"release {release.id}")

    def _advance(
        self, release: Release, guards: tuple[GuardReport, ...], verdict: Verdict, reason: str
    ) -> None:
        request = ReleaseAdvance(release.id, release.state, release.step, verdict, reason)
        try:
            after = self.gateway.advance_release(self.spec.model_name, request).release
        except GatewayRefused as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise
            self.result.summary = f"looks again, since the release changed: {refusal}"
            return
        self._record(after, guards, verdict, reason)
        if after.state is ReleaseState.CLEARED:
            self._promote(f"release {after.id}")

    def _promote(self, purpose: str) -> None:
        request = request_promotion(self.spec.model_name, purpose, self.instance)
        result = self.result
        if isinstance(request, str):
            result.summary = f"{result.summary}; {request}" if result.summary else request
        else:
            result.requests.append(request)

    def _note_change(self, release: Release) -> None:
        """Record a change of the release made elsewhere: by a person, a replica, or the switch."""
        if self.memory.place == release_place(release):
            return
        act = release.acts[-1] if release.acts else None
        reason = release.reason or (f"{act.by}: {act.reason}" if act else "it began")
        self._record(release, (), act.verdict if act else Verdict.NOT_YET, reason)

    def _record(
        self, release: Release, guards: tuple[GuardReport, ...], verdict: Verdict, reason: str
    ) -> None:
        materialization, checks = decision_events(
            self.spec, release, guards, verdict, reason, self.now, self.instance
        )
        place = release_place(release)
        if self.memory.place != place:
            if text := alert_text(self.spec, release, reason):
                self.result.alerts.append(text)
            writer = LedgerWriter(self.spec, self.ledger, self.instance)
            materialization = writer.enter_act(materialization, identity=" ".join(map(str, place)))
        self.result.events += [materialization, *checks]
        self.result.summary = f"version {release.version}, {describe_place(release)}: {reason}"
        self.memory.place, self.memory.recorded_at = place, self.now.timestamp()

    def _joined_losses(self, release: Release) -> PairedLosses | None:
        """Return the outcome guard's evidence, at most a minute old."""
        if Guard.OUTCOME not in release.plan.guardrails:
            return None
        memory, now = self.memory, self.now.timestamp()
        side = f"{release.id} {release.state is ReleaseState.WATCHING}"
        if memory.joined_for != side or now >= memory.joined_at + _JOIN_OUTCOMES_S:
            losses = self.losses(self.spec, release, self.now)
            memory.paired = losses if isinstance(losses, PairedOutcomes) else None
            memory.mean = losses if isinstance(losses, BoundedMean) else None
            memory.joined_for, memory.joined_at = side, now
        return memory.paired or memory.mean
