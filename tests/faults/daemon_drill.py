"""New data, a rollback and a release under way, while Dagster's daemon is down.

`quick` gets new rows and is released in steps; `timed` is rolled back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import dagster as dg

from platform_assets.ledger.chain import RELEASE as ENTRY_KIND
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.local_stack.chain import ChainResult, reload_definitions, run_chain
from platform_assets.serving.ledger import PROMOTION, ROLLBACK, read_ledger
from platform_assets.serving.promotion import GATES
from serving_gateway.contract import ACTIVE, ReleaseState
from tests.faults.scale import scale
from tests.support.machine import Machine, wait_for

_RELEASE: Final = """
  release:
    steps: STEPS
    each: {requests: 10, minutes: MINUTES}
    guardrails: {failures: 0.3}
    unproven: [failures]
    watch: WATCH
    approval: before_switch
"""
_STATE: Final = ["quick", "triton_serving_state"]


class Place(StrEnum):
    """Where the release is when the daemon dies: its state and step."""

    FIRST_STEP = "running 0"
    LAST_STEP = "running 1"
    WAITING = "waiting 1"
    """The approval comes while the daemon is down, so that it comes back to a cleared release."""
    WAITING_FIRST = "waiting 0"
    """The same of a release in one step: it stays there, however slow the machine."""
    WATCHING = "watching 1"

    @property
    def is_waiting(self) -> bool:
        """Whether the release waits for its approval."""
        return self in (Place.WAITING, Place.WAITING_FIRST)


_QUICK: Final = ((Place.WAITING_FIRST, 2.0),)
_LONG: Final = tuple(
    (place, 150.0 if place is Place.LAST_STEP else 10.0)
    for place in Place
    if place is not Place.WAITING_FIRST
)
DOWN: Final = _LONG if scale(0, 1) else _QUICK
"""Places, and for how many seconds the daemon is down there."""


@dataclass(frozen=True, slots=True)
class Books:
    """What was done so far, by what is on record of it."""

    registered: int
    """Versions of `quick` in MLflow."""
    new_data_runs: int
    rollbacks: int
    """Of `timed` in its ledger."""
    promotions: Mapping[int, int]
    """Of each version of `quick` in its ledger."""


@dataclass(frozen=True, slots=True)
class Drill:
    """What is done to the two models, and seen of them."""

    machine: Machine

    def prepare(self) -> None:
        """Have two READY versions of each model, the newest in production, and releases on."""
        # What else comes due is not of this drill.
        self.machine.drifted.set()
        self.machine.once |= {"maintenance_schedule", "quick__drift_schedule"}
        for model in ("quick", "timed"):
            while len(self.served(model)) < 2:
                assert self.run(f"{model}_chain").succeeded
            self.machine.settled(model)
        self._undo_rollback("timed")
        file = self.machine.models / "quick" / "defs.yaml"
        if "release:" in file.read_text():
            return
        steps, minutes, watch = ("[50]", "0.05", "5s")
        if DOWN is _LONG:
            # A step that was just seen is not over before the daemon is killed.
            steps, minutes, watch = ("[mirror, 50]", "0.5", "60s")
        text = _RELEASE.replace("STEPS", steps).replace("MINUTES", minutes)
        with file.open("a") as opened:
            opened.write(text.replace("WATCH", watch))
        # The daemon looks for new definitions once a minute, and when it starts.
        with self.machine.without_daemon():
            reload_definitions(self.machine.settings.dagster_url)

    def _undo_rollback(self, model: str) -> None:
        """Have the newest version in production, from which a rollback leads to the one before."""
        newest = max(self.served(model))
        if self.machine.production(model) != newest:
            body = {"version": newest, "mode": "ssot", "unpin": True, "reason": "for the next one"}
            self.machine.call("POST", model, "/variant/A/reload", json=body)

    def run(self, job: str) -> ChainResult:
        """Launch a job and follow its run to the end."""
        return run_chain(self.machine.settings.dagster_url, job, lambda _: None)

    def served(self, model: str) -> list[int]:
        """The READY versions of a model; none before one is in production."""
        if self.machine.production(model) is None:
            return []
        return list(self.machine.call("GET", model, "")["ssot"]["served_versions"])

    def books(self) -> Books:
        """What was done so far."""
        machine = self.machine
        ledgers = {
            one: read_ledger(machine.dagster, machine.spec(one)) for one in ("quick", "timed")
        }
        return Books(
            registered=len(machine.mlflow.versions("quick")),
            new_data_runs=len(machine.runs(dagster__sensor_name="quick_new_data")),
            rollbacks=sum(entry.action == ROLLBACK for entry in ledgers["timed"]),
            promotions=Counter(
                entry.version for entry in ledgers["quick"] if entry.action == PROMOTION
            ),
        )

    def begin_release(self) -> tuple[str, int]:
        """Release the newest version anew, from the one before; the release's id and version."""
        machine, newest = self.machine, self.machine.mlflow.versions("quick")[-1].version

        def is_in_production() -> bool:
            self._approve_if_asked()
            return machine.production("quick") == newest and not _is_active(self.release())

        wait_for(is_in_production, "the release of the newest version ends")
        older = max(set(self.served("quick")) - {newest})
        body = {"version": older, "mode": "ssot", "reason": "to release the newest one anew"}
        machine.call("POST", "quick", "/variant/A/reload", json=body)
        before = self.release()
        machine.launch([_STATE], [(_STATE, gate) for gate in GATES])

        def has_begun() -> bool:
            release = self.release()
            return release != before and _is_active(release)

        wait_for(has_begun, "a release begins")
        release = self.release()
        assert release["version"] == newest
        return release["id"], newest

    def release(self) -> Any:
        """The present release of `quick`, or the last one."""
        return self.machine.call("GET", "quick", "/release")["release"]

    def place(self) -> str:
        """Where it is."""
        release = self.release()
        return f"{release['state']} {release['step']}"

    def reach(self, place: Place) -> None:
        """Wait until the release is there."""

        def is_there() -> bool:
            if self.place() != place:
                self._approve_if_asked()
            return self.place() == place

        wait_for(is_there, f"the release is {place}")
        if place is Place.WATCHING:
            wait_for(lambda: self._unfinished() == [], "the run that switched ends")

    def approve(self) -> None:
        """Approve the switch."""
        body = {"reason": "the drill says so"}
        self.machine.call("POST", "quick", "/release/approve", json=body)

    def _approve_if_asked(self) -> None:
        if self.release() and self.place() in (Place.WAITING, Place.WAITING_FIRST):
            self.approve()

    def complete(self, release_id: str) -> None:
        """Wait until a release is over, and what else came due meanwhile."""

        def is_over() -> bool:
            if self.release()["id"] == release_id:
                self._approve_if_asked()
            return self.acts(release_id)[-1:] == ["completed"]

        wait_for(is_over, "the release is over")
        wait_for(lambda: self._unfinished() == [], "the end of all runs")

    def _unfinished(self) -> list[dg.DagsterRun]:
        found = (self.machine.runs(serving__model=one) for one in ("quick", "timed"))
        return [run for runs in found for run in runs if not run.is_finished]

    def acts(self, release_id: str) -> list[str]:
        """The places of a release in the ledger's chain, oldest first."""
        journal = LedgerFolder(root=str(self.machine.settings.ledger_dir)).journal("quick")
        assert journal is not None
        found = [entry.content for entry in journal.entries() if entry.kind == ENTRY_KIND]
        return [str(one["state"]) for one in found if one["release_id"] == release_id]

    def change_rows(self) -> None:
        """Give `quick` another row."""
        with (self.machine.models / "quick" / "rows.csv").open("a") as file:
            file.write("0.25,0.5,1\n")


def _is_active(release: Any) -> bool:
    return release is not None and ReleaseState(release["state"]) in ACTIVE
