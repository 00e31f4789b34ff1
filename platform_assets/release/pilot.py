"""The pilot of one model's releases: reads the routing record, decides, and requests the next step.

All state is in the routing record. The pilot's memory only avoids repeated messages and requests;
losing it does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final

import dagster as dg

from platform_assets.ledger.chain import RELEASE as ENTRY_KIND
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
from platform_assets.release.view import read_view
from platform_assets.resources.gateway import GatewayRefused, GatewayResource
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.serving.ledger import read_ledger
from platform_assets.serving.ledger_entries import with_entry
from platform_assets.serving.loads import newest_load
from platform_assets.serving.records import ServingState
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
"""Seconds between two records of a release that nothing was decided about."""
_ASK_AGAIN_S: Final = 60.0
_JOIN_OUTCOMES_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Pilot:
    """Takes one model's releases a step further, as far as the evidence goes."""

    spec: ModelSpec
    steps: ReleaseSpec
    gateway: GatewayResource
    mlflow: MlflowResource
    ledger: LedgerFolder
    losses: Losses
    instance: dg.DagsterInstance
    now: datetime

    def tick(self, memory: PilotMemory, *, is_busy: bool) -> TickResult:
        """Read the state, and carry out one decision at most; `memory` is updated.

        `is_busy` says that a run is loading or switching a version of the model.

        Raises:
            GatewayClientError: the gateway cannot be asked, or refuses; nothing changed.
        """
        view = read_view(self.spec, self.gateway)
        release = view.report.release if view.report is not None else None
        result = TickResult()
        if release is not None:
            self._note_change(release, memory, result)
        if view.report is not None and release is not None and release.state in ACTIVE:
            self._follow(view.report, release, memory, result)
            if note := waiting_note(self.spec, newest_load(self.instance, self.spec), release):
                result.summary = f"{result.summary}; {note}"
        elif view.unreachable is not None:
            result.summary = f"no release begins: {view.unreachable}"
        elif is_busy:
            result.summary = "a run is loading or switching a version"
        else:
            self._begin(view.production, release, memory, result)
        return result

    def _begin(
        self,
        production: EffectiveVersion | None,
        last: Release | None,
        memory: PilotMemory,
        result: TickResult,
    ) -> None:
        load = newest_load(self.instance, self.spec)
        result.summary = release_obstacle(load, production, last, memory.released_load) or ""
        if result.summary or load is None:
            return
        is_known = memory.waiting_load == load.state.load_id
        if not is_known or self.now.timestamp() >= memory.asked_at + _ASK_AGAIN_S:
            reported = memory.obstacle if is_known else ""
            memory.waiting_load, memory.asked_at = load.state.load_id, self.now.timestamp()
            memory.obstacle = open_gates(load, self.instance) or ""
            if not memory.obstacle and production is not None:
                memory.obstacle = self._begin_release(load.state, memory, result)
            if memory.obstacle and memory.obstacle == reported:
                result.alert = ""  # people have it already
        if memory.obstacle:
            result.summary = f"version {load.state.version} waits: {memory.obstacle}"
        elif production is None:
            self._promote_first(load.state, result)

    def _begin_release(self, state: ServingState, memory: PilotMemory, result: TickResult) -> str:
        """Begin a release; return why the version cannot be released yet, else an empty text."""
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
            result.alert = refusal_text(self.spec, state.version, str(refusal))
            return str(refusal)
        memory.released_load = state.load_id
        self._record(begun, (), Verdict.GO, reason, memory, result)
        return ""

    def _promote_first(self, state: ServingState, result: TickResult) -> None:
        """Switch to the first version at once: there is none to compare it with."""
        if ledger := read_ledger(self.instance, self.spec, limit=1):
            result.summary = (
                f"nothing is in production, where version {ledger[0].version} was: restore that "
                f"one by the job {self.spec.model_name}_rollback"
            )
            return
        self._promote(f"first version, load {state.load_id}", result)

    def _follow(
        self, report: ReleaseReport, release: Release, memory: PilotMemory, result: TickResult
    ) -> None:
        evidence = report.evidence or ReleaseEvidence(release.id)
        losses = self._joined_losses(release, memory)
        guards = judge_guards(release.plan, release, evidence, losses)
        verdict, reason = decide(release, guards, evidence, self.now)
        if report.stop_pending:
            verdict, reason = Verdict.NOT_YET, "a stop is in effect and not yet written down"
        elif (
            # What is missing may be what is bad; after the switch time decides, not evidence.
            verdict is Verdict.GO
            and release.state is ReleaseState.RUNNING
            and report.evidence_problem
        ):
            verdict, reason = Verdict.NOT_YET, report.evidence_problem
        result.summary = f"version {release.version}, {describe_place(release)}: {reason}"
        if verdict is not Verdict.NOT_YET:
            self._advance(release, guards, verdict, reason, memory, result)
        elif self.now.timestamp() >= memory.recorded_at + NOT_YET_S:
            self._record(release, guards, verdict, reason, memory, result)
        if release.state is ReleaseState.CLEARED and verdict is Verdict.NOT_YET:
            self._promote(f"release {release.id}", result)

    def _advance(
        self,
        release: Release,
        guards: tuple[GuardReport, ...],
        verdict: Verdict,
        reason: str,
        memory: PilotMemory,
        result: TickResult,
    ) -> None:
        request = ReleaseAdvance(release.id, release.state, release.step, verdict, reason)
        try:
            done = self.gateway.advance_release(self.spec.model_name, request).release
        except GatewayRefused as refusal:
            if refusal.status != HTTPStatus.CONFLICT:
                raise
            result.summary = f"looks again, since the release changed: {refusal}"
            return
        self._record(done, guards, verdict, reason, memory, result)
        if done.state is ReleaseState.CLEARED:
            self._promote(f"release {done.id}", result)

    def _promote(self, purpose: str, result: TickResult) -> None:
        request = request_promotion(self.spec.model_name, purpose, self.instance)
        if isinstance(request, str):
            result.summary = f"{result.summary}; {request}" if result.summary else request
        else:
            result.requests.append(request)

    def _note_change(self, release: Release, memory: PilotMemory, result: TickResult) -> None:
        """Record where others brought the release: a person, a replica, or the switch."""
        if memory.place == release_place(release):
            return
        act = release.acts[-1] if release.acts else None
        reason = release.reason or (f"{act.by}: {act.reason}" if act else "it began")
        verdict = act.verdict if act else Verdict.NOT_YET
        self._record(release, (), verdict, reason, memory, result)

    def _record(
        self,
        release: Release,
        guards: tuple[GuardReport, ...],
        verdict: Verdict,
        reason: str,
        memory: PilotMemory,
        result: TickResult,
    ) -> None:
        made, checks = decision_events(
            self.spec, release, guards, verdict, reason, self.now, self.instance
        )
        if memory.place != release_place(release):
            result.alert = alert_text(self.spec, release, reason)
            identity = " ".join(map(str, release_place(release)))
            made = with_entry(
                made, self.spec, ENTRY_KIND, self.ledger, self.instance, identity=identity
            )
        result.events += [made, *checks]
        result.summary = f"version {release.version}, {describe_place(release)}: {reason}"
        memory.place, memory.recorded_at = release_place(release), self.now.timestamp()

    def _joined_losses(self, release: Release, memory: PilotMemory) -> PairedLosses | None:
        """The outcome guard's evidence, of a minute ago at most."""
        if Guard.OUTCOME not in release.plan.guardrails:
            return None
        side = f"{release.id} {release.state is ReleaseState.WATCHING}"
        if memory.joined_for != side or self.now.timestamp() >= memory.joined_at + _JOIN_OUTCOMES_S:
            found = self.losses(self.spec, release, self.now)
            memory.paired = found if isinstance(found, PairedOutcomes) else None
            memory.mean = found if isinstance(found, BoundedMean) else None
            memory.joined_for, memory.joined_at = side, self.now.timestamp()
        return memory.paired or memory.mean
