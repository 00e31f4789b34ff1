"""What a replica reports about its readiness, given its routing record and Triton's answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Lifecycle:
    """Where the process stands between its start and its end."""

    draining: bool = False
    """Whether it is about to end: it still answers, and is not ready."""


def unready_reasons(
    production: int | None, problem: str | None, *, draining: bool, record_problem: str | None
) -> tuple[str, ...]:
    """Why this replica should get no traffic for a model, by variant A and itself alone (I12).

    `problem` says why Triton's answers make A's version not ready, if so; their age says nothing,
    as a version without requests is probed only every so often. `record_problem` says why no
    routing record could be read: that explains an empty A, and is no reason once A is effective
    (I9).
    """
    reasons: list[str] = []
    if draining:
        reasons.append("the gateway is shutting down")
    if production is None:
        why = record_problem or "no version was ever loaded into it"
        reasons.append(f"variant A has no version: {why}")
    elif problem is not None:
        reasons.append(f"variant A, version {production}: {problem}")
    return tuple(reasons)
