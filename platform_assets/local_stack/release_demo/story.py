"""The four versions of the demo, one after the other, as they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from platform_assets.local_stack import release_progress, report
from platform_assets.local_stack.chain import chain_job_name, reload_definitions, run_chain
from platform_assets.local_stack.release_demo.clients import FROM_NEW_CITY, Clients
from platform_assets.local_stack.release_demo.deliveries import (
    MODEL,
    NEW_CITY,
    write_model_file,
    write_rows,
)
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import StackError, StackSettings
from serving_gateway.contract import ACTIVE, WATCH, Guard, Release, ReleaseState

ROWS: Final = 2_000
MORE_ROWS: Final = 4_000
_POLL_S: Final = 0.2
_BEGIN_S: Final = 120.0
_RELEASE_S: Final = 400.0
_REPLAY: Final = f"{MODEL}/triton_serving_state:replay"


@dataclass(frozen=True, slots=True)
class Fate:
    """The outcome of a version."""

    version: int
    what: str
    outcome: str
    chain_seconds: float
    """Duration of its chain, until its gates had passed or failed."""
    release: Release | None = None
    requests: int = 0
    """Requests, and mirrored copies, that it received in the steps of its release."""

    @property
    def release_seconds(self) -> float:
        """Duration of its release."""
        if self.release is None:
            return 0.0
        began, ended = map(datetime.fromisoformat, (self.release.started_at, self.release.since))
        return (ended - began).total_seconds()


@dataclass(slots=True)
class Story:
    """Runs the story of each version, and raises StackError if one does not go as expected."""

    settings: StackSettings
    console: Console
    clients: Clients
    models: Path
    """Folder with the model file."""
    began: float = field(default_factory=time.monotonic)
    fates: list[Fate] = field(default_factory=list)
    production: int = 1
    _chain_seconds: float = 0.0

    @property
    def version(self) -> int:
        """The version that the next chain produces."""
        return len(self.fates) + 1

    @property
    def seconds(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self.began

    def tell(self, parts: Sequence[int] = (1, 2, 3, 4)) -> None:
        """Tell these parts, always beginning with the first one."""
        others = {2: self._good, 3: self._wrong_unit, 4: self._unknown_city}
        self._first()
        with self.clients.asking():
            for number, part in others.items():
                if number in parts:
                    part()
                    self._require_answers()

    def _first(self) -> None:
        self._begin(f"{ROWS:,} deliveries, and nothing to compare it with")
        self._take_to_gates()
        release_progress.await_first_version(self.settings, MODEL)
        self._end("the first one", "promoted at once")
        self._say(f"from now on clients ask {self.clients.per_second} times a second; watch it at")
        for page in (
            f"{self.settings.gateway_url}/?model={MODEL}",
            f"{self.settings.dagster_url}/assets/{MODEL}/release",
        ):
            self.console.print(f"          {page}", markup=False, highlight=False)

    def _good(self) -> None:
        self._begin(f"the same with {MORE_ROWS:,} deliveries")
        write_rows(self.models, MORE_ROWS)
        self._take_to_gates()
        ended = self._follow()
        if ended.state is not ReleaseState.COMPLETED:
            raise StackError(f"a good version should be promoted, and {_ending(ended)}")
        self.production = self.version
        outcome = "promoted after mirror, 10 %, 50 % and a watch"
        self._end("more rows", outcome, ended)

    def _wrong_unit(self) -> None:
        self._begin("the source sends metres, while clients go on sending km")
        write_rows(self.models, MORE_ROWS, "m")
        stopped = [event.name for event in self._run_chain() if event.kind == "failure"]
        if stopped != [_REPLAY]:
            named = ", ".join(stopped) or "nothing"
            raise StackError(f"replay should stop this version, and {named} stopped it")
        self._end("trained on metres", "stopped by the gate replay")

    def _unknown_city(self) -> None:
        self._begin("km again, and a pipeline with a list of the cities that there are today")
        write_rows(self.models, MORE_ROWS)
        write_model_file(self.models, "strict")
        reload_definitions(self.settings.dagster_url)
        self._take_to_gates()
        ended = self._follow(self._open_city)
        if ended.state is not ReleaseState.STOPPED or Guard.FAILURES not in (ended.reason or ""):
            raise StackError(f"failures should stop this version, and {_ending(ended)}")
        what = f"fails for one client in {FROM_NEW_CITY}"
        self._end(what, "stopped by the guardrail failures", ended)

    def _open_city(self) -> None:
        self._say(f"a new city: from now on one client in {FROM_NEW_CITY} sends {NEW_CITY}")
        self.clients.has_new_city = True

    def _take_to_gates(self) -> None:
        problems = [event for event in self._run_chain() if event.kind == "failure"]
        if problems:
            raise StackError(f"{problems[0].name} stopped the chain: {problems[0].detail}")

    def _run_chain(self) -> list[ChainEvent]:
        """Run the chain; return its warnings and failures."""
        problems: list[ChainEvent] = []

        def show(event: ChainEvent) -> None:
            if event.kind == "launched":
                self._say(f"its chain runs: {event.detail}")
            elif event.kind in {"warning", "failure"}:
                problems.append(event)
                self._say(f"{event.name}: {event.detail}")
            elif event.kind == "check" and event.name == _REPLAY:
                self._say("it passed replay, and all other gates before it")

        began = time.monotonic()
        result = run_chain(self.settings.dagster_url, chain_job_name(MODEL), show)
        self._chain_seconds = time.monotonic() - began
        if not result.succeeded and not problems:
            raise StackError(f"the chain ended as {result.status}: run {result.run_id}")
        return problems

    def _follow(self, at_begin: Callable[[], None] = lambda: None) -> Release:
        """Print the acts of the new version's release until it has ended."""
        began, acts, is_new = time.monotonic(), 0, True
        while time.monotonic() < began + (_BEGIN_S if is_new else _RELEASE_S):
            release = release_progress.present_release(self.settings, MODEL)
            if release is not None and release.version == self.version:
                if is_new:
                    self._say(f"its release begins: {self._place(release)}")
                    at_begin()
                    is_new = False
                for act in release.acts[acts:]:
                    self._say(f"{act.verdict.value}, {act.reason}")
                if release.state not in ACTIVE:
                    return release
                if len(release.acts) > acts:
                    self._say(f"now {self._place(release)}")
                acts = len(release.acts)
            time.sleep(_POLL_S)
        what = "begin" if is_new else "end"
        raise StackError(
            f"the release of version {self.version} did not {what} in time: the sensor "
            f"release_pilot says why in {self.settings.logs}/dagster-daemon.log"
        )

    def _place(self, release: Release) -> str:
        from platform_assets.release.record import describe_place  # imports Dagster

        return describe_place(release)

    def _count_requests(self) -> int:
        """Return the requests and copies that the candidate got in the last release's steps."""
        current = release_progress.release_report(self.settings, MODEL)
        phases = current.evidence.phases if current is not None and current.evidence else {}
        return sum(phase.candidate.requests for name, phase in phases.items() if name != WATCH)

    def _require_answers(self) -> None:
        clients = self.clients
        if clients.failed:
            raise StackError(
                f"{len(clients.failed)} of {clients.sent} requests failed: {clients.failed[0]}"
            )

    def _begin(self, what: str) -> None:
        self.console.print(f"\n[bold]Version {self.version}: {escape(what)}[/]", highlight=False)

    def _end(self, what: str, outcome: str, release: Release | None = None) -> None:
        """Record the outcome of a version, and check that the right version is in production."""
        served = report.production(self.settings, MODEL)
        if served.version != self.production:
            raise StackError(f"version {self.production} should be in production, not {served}")
        self._say(f"version {self.version}: {outcome}; in production: {served}")
        requests = self._count_requests() if release is not None else 0
        self.fates.append(Fate(self.version, what, outcome, self._chain_seconds, release, requests))

    def _say(self, text: str) -> None:
        self.console.print(f"[dim]{self.seconds:6.1f} s[/]  {escape(text)}", highlight=False)


def _ending(release: Release) -> str:
    return f"its release ended as {release.state.value}: {release.reason}"
