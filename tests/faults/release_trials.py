"""Good and bad candidates, each released on the real servers while clients ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal

from platform_assets.model_spec import ReleaseSpec, StepMinimum
from platform_assets.model_spec.release import MIRROR, PAIRED
from serving_gateway.contract import ACTIVE, Guard, Release, ReleaseState
from tests.faults import candidates
from tests.faults.release_world import CONNECTIONS, PER_SECOND, World
from tests.support.gateway_harness import serve_versions
from tests.support.load import Answer, Load

_QUESTIONS: Final = 5_000
_LONGEST_SECONDS: Final = 600.0
"""A guard against hangs."""
_MARGINS: Final = {
    Guard.FAILURES: 0.005,
    Guard.LATENCY_P99: 1.25,
    Guard.DISAGREEMENT: 0.05,
    Guard.SCORE_SHIFT: 0.1,
}


@dataclass(frozen=True, slots=True)
class CandidateTrial:
    """A candidate, and what is to become of it.

    `requests` are the least of each step: a fault of few requests needs many to be seen.
    `meanwhile` does something to the world once the release is in `at`.
    """

    model: Callable[[], bytes]
    ends: frozenset[ReleaseState | None]
    """States in which its release may end; None where none may begin."""
    requests: int = 20
    steps: tuple[Literal["mirror"] | float, ...] = ("mirror", 20.0, 50.0)
    unproven: tuple[Guard, ...] = ()
    margins: Mapping[Guard, float] = field(default_factory=lambda: _MARGINS)
    watch_seconds: float = 1.0
    at: ReleaseState | None = None
    meanwhile: Callable[[World, Load], None] | None = None
    fails_clients: bool = False
    """Whether the candidate, as production, fails requests until it is rolled back."""

    @property
    def name(self) -> str:
        """What the candidate does."""
        return getattr(self.model, "__name__", "").replace("_", " ")


_STOPPED: Final = frozenset({ReleaseState.STOPPED})
_NOT_BEGUN: Final = frozenset({None})
_ROLLED_BACK: Final = frozenset({ReleaseState.ROLLED_BACK})
_COMPLETED: Final = frozenset({ReleaseState.COMPLETED})
_RARE: Final = 4_000
_SPLIT: Final = (30.0, 60.0)


def disappears() -> bytes:
    """As production; Triton unloads it midway."""
    return candidates.equals_production()


def _unload(world: World, _: Load) -> None:
    serve_versions(world.triton, world.production)


def _send_new_rows(_: World, load: Load) -> None:
    load.ask(candidates.questions(_QUESTIONS, are_new=True))


BAD: Final = (
    CandidateTrial(candidates.fails_always, _STOPPED, steps=_SPLIT),
    CandidateTrial(candidates.names_other_labels, _STOPPED),
    CandidateTrial(candidates.answers_nan_for_some_rows, _STOPPED, _RARE, _SPLIT),
    CandidateTrial(candidates.fails_for_one_row_in_fifty, _STOPPED, _RARE),
    CandidateTrial(candidates.fails_for_a_client, _STOPPED, _RARE),
    CandidateTrial(candidates.shifts_scores, _STOPPED),
    CandidateTrial(candidates.slows_down, _STOPPED, _RARE, _SPLIT),
    CandidateTrial(candidates.slows_down_for_some_rows, _STOPPED, _RARE),
    CandidateTrial(candidates.leaves_rows_out, _STOPPED, _RARE),
    CandidateTrial(candidates.answers_another_type, _NOT_BEGUN),
    CandidateTrial(disappears, _STOPPED, _RARE, at=ReleaseState.RUNNING, meanwhile=_unload),
    CandidateTrial(
        candidates.fails_for_new_rows,
        _ROLLED_BACK,
        unproven=(Guard.FAILURES, Guard.LATENCY_P99),
        watch_seconds=60.0,
        at=ReleaseState.WATCHING,
        meanwhile=_send_new_rows,
        fails_clients=True,
    ),
)
GOOD: Final = tuple(
    CandidateTrial(model, _COMPLETED, unproven=(Guard.FAILURES, Guard.LATENCY_P99))
    for model in (
        candidates.equals_production,
        candidates.changes_slightly,
        candidates.uses_few_trees,
        candidates.computes_in_double,
        candidates.answers_faster,
        candidates.adds_an_output,
    )
)
_WIDE: Final = {**_MARGINS, Guard.DISAGREEMENT: 0.15, Guard.SCORE_SHIFT: 0.3}
"""What a good candidate is shown to be within after few requests."""
QUICK: Final = (*BAD[:3], replace(GOOD[0], margins=_WIDE, steps=("mirror", 50.0)))


@dataclass(slots=True)
class Course:
    """What became of a candidate, and what the clients saw."""

    trial: CandidateTrial
    release: Release | None
    seconds: float
    answers: list[Answer]
    exposed_wrongly: list[Answer]
    acts: list[str] = field(default_factory=list)
    """Places of the release in the ledger."""

    @property
    def end(self) -> ReleaseState | None:
        """How it ended; None without a release."""
        return None if self.release is None else self.release.state

    @property
    def failed(self) -> list[Answer]:
        """Requests that were not answered."""
        return [one for one in self.answers if one.status != 200]

    @property
    def problems(self) -> list[str]:
        """What is not as it is to be."""
        found = []
        if self.end not in self.trial.ends:
            found.append(f"it ended as {self.end}")
        if self.failed and not self.trial.fails_clients:
            found.append(f"{len(self.failed)} requests failed: {self.failed[0]}")
        if self.exposed_wrongly:
            found.append(
                f"{len(self.exposed_wrongly)} clients beyond the share: {self.exposed_wrongly[0]}"
            )
        if self.release is not None and self.acts[-1:] != [str(self.end).replace("_", " ")]:
            found.append(f"the ledger ends with {self.acts[-1:]}")
        return found

    def summary(self) -> dict[str, Any]:
        """The figures."""
        reason = None if self.release is None else self.release.reason
        by = self.release.acts[-1].by if self.release and self.release.acts else None
        return {
            "candidate": self.trial.name,
            "end": self.end,
            "seconds": round(self.seconds, 1),
            "step": None if self.release is None else self.release.step,
            "by": by and by.partition(":")[0],
            "requests": len(self.answers),
            "failed": len(self.failed),
            "answered_by_b": sum(one.variant == "B" for one in self.answers),
            "reason": reason and reason[:160],
            "problems": self.problems,
        }


async def attempt(world: World, trial: CandidateTrial, per_second: float = PER_SECOND) -> Course:
    """Load the candidate, and follow its release to the end while clients ask at this rate."""
    load = Load(
        world.balancer.url,
        CONNECTIONS,
        per_second=per_second,
        bodies=candidates.questions(_QUESTIONS),
    )
    async with load:
        version = world.package(trial.model())
        is_ready = await asyncio.to_thread(world.load, version)
        began = time.monotonic()
        world.steps = _steps(trial)
        release = await asyncio.to_thread(_follow, world, trial, load, is_ready)
        seconds = time.monotonic() - began
    course = Course(trial, release, seconds, load.answers, world.exposed_wrongly(load.answers))
    if release is not None:
        world.settle()
        course.acts = world.acts(release.id)
    return course


def _follow(world: World, trial: CandidateTrial, load: Load, is_ready: bool) -> Release | None:
    before = world.report().release
    if not is_ready:
        world.tick()
        after = world.report().release
        return None if after == before else after
    if trial.meanwhile is not None:
        world.run(_LONGEST_SECONDS, trial.at)
        trial.meanwhile(world, load)
        while (release := world.release).state in ACTIVE:
            world.tick()
        return release
    return world.run(_LONGEST_SECONDS)


def _steps(trial: CandidateTrial) -> ReleaseSpec:
    left_out = frozenset() if MIRROR in trial.steps else PAIRED
    return ReleaseSpec(
        steps=trial.steps,
        each=StepMinimum(requests=trial.requests, minutes=0.0),
        guardrails={k: margin for k, margin in trial.margins.items() if k not in left_out},
        give_up_after=timedelta(minutes=10),
        watch=timedelta(seconds=trial.watch_seconds),
        unproven=trial.unproven,
    )


def attempt_all(world: World, trials: Sequence[CandidateTrial]) -> Iterator[Course]:
    """Release one candidate after the other."""
    for trial in trials:
        yield asyncio.run(attempt(world, trial))
