"""Everything that changes what is served waits for its turn, and a rollback for no chain."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import dagster as dg
import pytest

from platform_assets.serving import turns
from platform_assets.serving.turns import CHANGE, LEASE
from tests.support.chain import op_config
from tests.support.full_platform import Platform


def roll_back(platform: Platform) -> None:
    op = f"roll_back_{platform.spec.model_name}"
    config = {"version": platform.production(), "reason": "to where it is"}
    name = f"{platform.spec.model_name}_rollback"
    assert platform.execute(name, {"ops": {op: {"config": config}}}) == {}


def reconcile(platform: Platform) -> None:
    assert platform.reconcile() == {}


def load(platform: Platform) -> None:
    outcome = platform.run("triton_serving_state")
    assert outcome.success, outcome.failures


def switch(platform: Platform) -> None:
    config = op_config("gateway_reload", {"unpin": True})
    outcome = platform.run("gateway_reload", checks=False, run_config=config)
    assert outcome.success, outcome.failures


def prove(platform: Platform) -> None:
    outcome = platform.run("serving_proof")
    assert outcome.success, outcome.failures


def waits(
    step: Callable[[Platform], None], turn: str, platform: Platform, patched: pytest.MonkeyPatch
) -> bool:
    """Whether a step goes on only when the run that has the turn is over."""
    other = dg.DagsterRun(job_name="other", status=dg.DagsterRunStatus.STARTED)
    platform.instance.add_run(other)
    held = {turn: f"{other.run_id} {platform.spec.model_name} has"}
    platform.instance.add_run_tags(other.run_id, held)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        platform.instance.report_run_canceled(other)

    patched.setattr(turns, "time", SimpleNamespace(sleep=sleep))
    try:
        step(platform)
    finally:
        if not waited:
            platform.instance.report_run_canceled(other)
    return waited != []


@pytest.mark.parametrize(
    ("step", "needed"),
    [
        (load, {CHANGE, LEASE}),
        (switch, {CHANGE, LEASE}),
        (prove, {LEASE}),
        (roll_back, {CHANGE}),
        (reconcile, {CHANGE}),
    ],
)
def test_a_step_takes_the_turns_that_it_needs(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[Platform], None],
    needed: set[str],
) -> None:
    found = {turn for turn in (CHANGE, LEASE) if waits(step, turn, platform, monkeypatch)}
    assert found == needed
