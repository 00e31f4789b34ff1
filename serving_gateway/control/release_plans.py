"""Checks that a plan must pass before a release may follow it; pure functions."""

from __future__ import annotations

from math import isfinite

from serving_gateway.contract import (
    LARGEST_RATIO,
    LONGEST_SECONDS,
    MOST_REQUESTS,
    MOST_STEPS,
    Guard,
    ReleasePlan,
    Strategy,
)
from serving_gateway.errors import InvalidInput


def check_plan(plan: ReleasePlan) -> None:
    """Refuse (`InvalidInput`, with the path in the request) a plan that cannot be followed."""
    if not 1 <= len(plan.steps) <= MOST_STEPS:
        raise _invalid("steps", f"has {len(plan.steps)} steps; it needs 1 to {MOST_STEPS}.")
    for number, step in enumerate(plan.steps):
        where, share = f"steps[{number}]", step.percent
        if step.strategy is Strategy.OFF:
            raise _invalid(f"{where}.strategy", "is off; a step mirrors or splits.")
        if not 0 < share <= 100 or abs(share * 100 - round(share * 100)) > 1e-6:
            what = f"is {share:g}; it must be above 0 and up to 100, in steps of 0.01."
            raise _invalid(f"{where}.percent", what)
    if not 0 <= plan.requests <= MOST_REQUESTS:
        raise _invalid("requests", f"is {plan.requests}; it must be from 0 to {MOST_REQUESTS:,}.")
    for name in ("seconds", "give_up_seconds", "watch_seconds"):
        if not 0 <= getattr(plan, name) <= LONGEST_SECONDS:
            raise _invalid(name, "must be from 0 seconds to a year.")
    if not (isfinite(plan.score_scale) and plan.score_scale > 0):
        raise _invalid("score_scale", f"is {plan.score_scale:g}; it must be above 0.")
    _check_guards(plan)


def _check_guards(plan: ReleasePlan) -> None:
    for guard, margin in plan.guardrails.items():
        is_ratio = guard is Guard.LATENCY_P99
        if not (1 <= margin <= LARGEST_RATIO if is_ratio else 0 <= margin <= 1):
            what = f"a ratio from 1 to {LARGEST_RATIO:g}" if is_ratio else "from 0 to 1"
            raise _invalid(f"guardrails.{guard}", f"is {margin:g}; it must be {what}.")
    for number, guard in enumerate(plan.unproven):
        if guard not in plan.guardrails:
            raise _invalid(f"unproven[{number}]", f"is {guard}, which is none of the guardrails.")


def _invalid(path: str, what: str) -> InvalidInput:
    return InvalidInput(f"plan.{path} {what}", field=f"plan.{path}", code="bad_release_plan")
