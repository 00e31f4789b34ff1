"""How the versions of a model reach production in steps, and what stops them."""

from __future__ import annotations

from dataclasses import field
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, StrictFloat, model_validator
from pydantic.dataclasses import dataclass

from platform_assets.model_spec.fields import (
    CONFIG,
    Count,
    Duration,
    as_yaml,
    choice,
    reject,
    suggestion,
)
from serving_gateway.contract import (
    LARGEST_RATIO,
    LONGEST_SECONDS,
    MOST_REQUESTS,
    MOST_STEPS,
    Approval,
    Guard,
    ReleasePlan,
    Strategy,
    Traffic,
)

MIRROR: Final = "mirror"
DEFAULT_GUARDRAILS: Final = {
    Guard.FAILURES: 0.005,
    Guard.LATENCY_P99: 1.25,
    Guard.DISAGREEMENT: 0.05,
    Guard.SCORE_SHIFT: 0.1,
    Guard.OUTCOME: 0.02,
}
"""Default margins; the last one only applies to a model with outcomes."""
PAIRED: Final = frozenset({Guard.DISAGREEMENT, Guard.SCORE_SHIFT, Guard.OUTCOME})
"""Guards that compare two answers to a row, which before the switch only `mirror` provides."""

_GUARDS: Final = {guard.value: guard for guard in Guard}
_LEAST_SHARE: Final = 0.01


def _guard(name: object) -> Guard:
    if isinstance(name, str) and name in _GUARDS:
        return _GUARDS[name]
    hint = suggestion(str(name), _GUARDS)
    raise ValueError(f"{as_yaml(name)} is not a guardrail.{hint} They are {', '.join(_GUARDS)}")


GuardName = Annotated[Guard, BeforeValidator(_guard, json_schema_input_type=Guard)]


def _step(value: object) -> object:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value == MIRROR or (is_number and _LEAST_SHARE <= float(str(value)) < 100):
        return value
    raise ValueError(f"{as_yaml(value)}: write mirror, or a percentage from 0.01 to below 100")


Step = Annotated[
    Literal["mirror"] | float,
    BeforeValidator(_step, json_schema_input_type=Literal["mirror"] | float),
]


@dataclass(frozen=True, config=CONFIG)
class StepMinimum:
    """How long a step lasts at least."""

    requests: Annotated[Count, Field(le=MOST_REQUESTS)] = 500
    """Requests, or copies of them, that the candidate gets."""
    minutes: Annotated[StrictFloat, Field(ge=0, le=LONGEST_SECONDS / 60)] = 10.0
    """Minutes, of which parts may be given."""


@dataclass(frozen=True, config=CONFIG)
class ReleaseSpec:
    """How a version that passed its gates reaches production; `release: {}` for the defaults."""

    steps: Annotated[tuple[Step, ...], Field(examples=[["mirror", 1, 10, 50]])] = (
        MIRROR,
        1.0,
        10.0,
        50.0,
    )
    """What the candidate gets: `mirror`, a copy of all requests, whose answers are compared and
    dropped, first if at all; then the percentages of clients that it answers, rising."""
    each: StepMinimum = StepMinimum()
    """The minimum of a step; it ends with go when it is reached and no guardrail is broken."""
    give_up_after: Annotated[Duration, Field(json_schema_extra={"default": "24h"})] = timedelta(
        days=1
    )
    """Duration of a step after which an inconclusive one stops the release."""
    guardrails: Annotated[
        dict[GuardName, Annotated[StrictFloat, Field(gt=0)]],
        Field(examples=[{"failures": 0.005, "latency_p99": 1.25}]),
    ] = field(default_factory=dict)
    """By how much the candidate may be worse: `failures` and `disagreement` as shares of requests,
    `latency_p99` as a ratio, `score_shift` as a share of the scores' width, `outcome` as the mean
    loss. All of them share an error rate of 5 %. By default 0.005, 0.05, 1.25, 0.1 and, with
    `outcomes`, 0.02; without the step `mirror` only those of `failures` and `latency_p99`."""
    watch: Annotated[Duration | None, Field(json_schema_extra={"default": "30m"})] = timedelta(
        minutes=30
    )
    """How long the version before is mirrored after the switch; it takes over when a guardrail
    breaks. `null` for not at all."""
    approval: Annotated[
        Approval,
        choice({one.value: one for one in Approval}),
    ] = Approval.NONE
    """What a person has to approve: `before_traffic`, `before_switch` or `none`."""
    unproven: tuple[GuardName, ...] = ()
    """Guardrails that need not be shown within their margin before the switch, where there are too
    few data for it. One that is broken stops the release all the same."""

    @property
    def has_mirror(self) -> bool:
        """Whether the candidate answers copies of requests before the switch."""
        return MIRROR in self.steps

    @model_validator(mode="after")
    def _check(self) -> Self:
        reject(_step_problems(self.steps))
        reject(
            ((("guardrails", guard.value), problem))
            for guard, margin in self.guardrails.items()
            if (problem := _margin_problem(guard, margin))
        )
        reject(
            (
                ("guardrails", guard.value),
                "compares two answers to one row, and no step mirrors: begin with `mirror`, or "
                "name it in `unproven`",
            )
            for guard in sorted(PAIRED & {*self.guardrails} - {*self.unproven})
            if not self.has_mirror
        )
        longest = timedelta(seconds=LONGEST_SECONDS)
        reject(
            ((name,), f"is longer than the {longest.days} days that gateways accept")
            for name, given in (("give_up_after", self.give_up_after), ("watch", self.watch))
            if given is not None and given > longest
        )
        if self.give_up_after < timedelta(minutes=self.each.minutes):
            message = "is shorter than a step: give at least `each.minutes`"
            reject([(("give_up_after",), message)])
        return self


def _step_problems(steps: tuple[Step, ...]) -> list[tuple[tuple[int | str, ...], str]]:
    problems: list[tuple[tuple[int | str, ...], str]] = []
    if not steps:
        problems.append((("steps",), "needs at least one step: without them remove `release`"))
    if len(steps) > MOST_STEPS:
        return [(("steps",), f"has {len(steps)} steps: give at most {MOST_STEPS}")]
    for index, step in enumerate(steps):
        before = steps[index - 1] if index else 0.0
        if step == MIRROR and index:
            problems.append((("steps", index), "`mirror` comes first, and once: move it"))
        elif not isinstance(step, str):
            if round(step, 2) != step:
                problems.append((("steps", index), f"{step:g}: give at most two decimals"))
            elif not isinstance(before, str) and step <= before:
                message = f"{step:g} after {before:g}: percentages rise from step to step"
                problems.append((("steps", index), message))
    return problems


def _margin_problem(guard: Guard, margin: float) -> str:
    if guard is Guard.LATENCY_P99:
        is_ratio = 1 < margin <= LARGEST_RATIO
        return "" if is_ratio else f"{margin:g}: a ratio above 1, such as 1.25"
    return "" if margin <= 1 else f"{margin:g}: a share from 0 to 1, such as 0.05"


def to_plan(spec: ReleaseSpec, scale: float = 1.0) -> ReleasePlan:
    """Return the plan of a release for the gateway.

    `scale` is the range of a regression's predictions on held-out rows, and 1 for probabilities.
    """
    return ReleasePlan(
        steps=tuple(
            Traffic(Strategy.MIRROR, 100.0)
            if isinstance(step, str)
            else Traffic(Strategy.SPLIT, step)
            for step in spec.steps
        ),
        requests=spec.each.requests,
        seconds=spec.each.minutes * 60,
        give_up_seconds=spec.give_up_after.total_seconds(),
        guardrails=spec.guardrails,
        watch_seconds=spec.watch.total_seconds() if spec.watch else 0.0,
        approval=spec.approval,
        unproven=spec.unproven,
        score_scale=scale,
    )
