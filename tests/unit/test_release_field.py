"""`release` in a model file: what it means, and what is said of a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.components.model_file import read_model
from platform_assets.model_spec import ModelSpec, ReleaseSpec, to_plan
from serving_gateway.contract import Approval, Guard, Strategy, Traffic
from tests.support.model_files import MINIMAL, refused, write

FULL = """\
  release:
    steps: [mirror, 1, 12.5, 50]
    each: {requests: 200, minutes: 0.5}
    give_up_after: 2h
    guardrails: {failures: 0.01, latency_p99: 1.5}
    watch: 10m
    approval: before_switch
    unproven: [latency_p99]
"""


def read(tmp_path: Path, more: str) -> ModelSpec:
    return read_model(write(tmp_path, MINIMAL.rstrip("\n") + "\n" + more))


def release(tmp_path: Path, more: str) -> ReleaseSpec:
    found = read(tmp_path, more).release
    assert found is not None
    return found


def test_without_the_field_the_switch_is_immediate(tmp_path: Path) -> None:
    assert read(tmp_path, "").release is None


def test_all_fields_become_a_plan(tmp_path: Path) -> None:
    plan = to_plan(release(tmp_path, FULL), scale=7.0)
    assert plan.steps == (
        Traffic(Strategy.MIRROR, 100),
        *(Traffic(Strategy.SPLIT, percent) for percent in (1, 12.5, 50)),
    )
    assert (plan.requests, plan.seconds, plan.give_up_seconds) == (200, 30, 7_200)
    assert plan.guardrails == {Guard.FAILURES: 0.01, Guard.LATENCY_P99: 1.5}
    assert (plan.watch_seconds, plan.approval) == (600, Approval.BEFORE_SWITCH)
    assert (plan.unproven, plan.score_scale) == ((Guard.LATENCY_P99,), 7)


def test_defaults_leave_outcomes_out_where_there_are_none(tmp_path: Path) -> None:
    plan = to_plan(release(tmp_path, "  release: {}\n"))
    assert len(plan.steps) == 4
    assert set(plan.guardrails) == set(Guard) - {Guard.OUTCOME}
    assert plan.watch_seconds == 1_800


def test_without_a_mirror_step_no_default_needs_one(tmp_path: Path) -> None:
    text = "  outcomes: {outcome_delay: 1d}\n  release: {steps: [5, 50]}\n"
    assert set(to_plan(release(tmp_path, text)).guardrails) == {Guard.FAILURES, Guard.LATENCY_P99}


def test_a_model_with_outcomes_has_their_guardrail(tmp_path: Path) -> None:
    text = "  outcomes: {outcome_delay: 1d}\n  release: {unproven: [outcome]}\n"
    plan = to_plan(release(tmp_path, text))
    assert plan.guardrails[Guard.OUTCOME] == 0.02


def test_a_mirror_alone_and_no_watch_are_allowed(tmp_path: Path) -> None:
    plan = to_plan(release(tmp_path, "  release: {steps: [mirror], watch: null}\n"))
    assert plan.steps == (Traffic(Strategy.MIRROR, 100),)
    assert plan.watch_seconds == 0


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("{steps: []}", "steps", "needs at least one step"),
        ("{steps: [mirrored]}", "steps[0]", "'mirrored': write mirror, or a percentage"),
        ("{steps: [100]}", "steps[0]", "from 0.01 to below 100"),
        ("{steps: [true]}", "steps[0]", "from 0.01 to below 100"),
        ("{steps: [0.001]}", "steps[0]", "from 0.01 to below 100"),
        ("{steps: [1.234]}", "steps[0]", "at most two decimals"),
        (
            "{steps: [5], guardrails: {disagreement: 0.1}}",
            "guardrails.disagreement",
            "no step mirr",
        ),
        ("{steps: [1, mirror]}", "steps[1]", "comes first, and once"),
        ("{steps: [mirror, mirror]}", "steps[1]", "comes first, and once"),
        ("{steps: [mirror, 10, 10]}", "steps[2]", "10 after 10: percentages rise"),
        ("{guardrails: {failure: 0.1}}", "guardrails.failure", "Did you mean `failures`?"),
        ("{guardrails: {latency_p99: 1}}", "guardrails.latency_p99", "a ratio above 1"),
        ("{guardrails: {failures: 2}}", "guardrails.failures", "a share from 0 to 1"),
        ("{guardrails: {outcome: 0.02}}", "guardrails.outcome", "needs `outcomes`"),
        ("{unproven: [outcome]}", "unproven[0]", "outcome is not among the guardrails"),
        ("{unproven: [all]}", "unproven[0]", "'all' is not a guardrail"),
        ("{give_up_after: 5m}", "give_up_after", "is shorter than a step"),
        ("{approval: always}", "approval", "must be 'before_traffic', 'before_switch' or 'none'"),
        ("{each: {requests: 0}}", "each.requests", "1"),
        # What gateways refuse is refused here, before a training.
        (f"{{steps: {[*range(1, 52)]}}}", "steps", "51 steps: give at most 50"),
        ("{each: {requests: 1000000001}}", "each.requests", "1000000000"),
        ("{each: {minutes: 1.0e+308}}", "each.minutes", "527040"),
        ("{give_up_after: 60w}", "give_up_after", "longer than the 366 days"),
        ("{watch: 60w}", "watch", "longer than the 366 days"),
        ("{guardrails: {latency_p99: 5000}}", "guardrails.latency_p99", "a ratio above 1"),
    ],
)
def test_a_bad_one_is_refused_at_its_place(
    tmp_path: Path, text: str, field: str, message: str
) -> None:
    line = "  task: binary"
    [said] = refused(write(tmp_path, MINIMAL.replace(line, f"{line}\n  release: {text}")))
    assert said.field == f"release.{field}"
    assert message in said.message
