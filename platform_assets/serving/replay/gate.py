"""The gate `replay`: compare the candidate's and production's answers to logged requests."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import dagster as dg
import numpy as np
from pydantic import Field

from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.samples import SamplesError, SamplesFolder
from platform_assets.resources.triton import TritonError
from platform_assets.serving.loaded_version import LoadedVersion, ProductionUnknown, failed_gate
from platform_assets.serving.replay.asking import VersionAnswers, answer_in_turn
from platform_assets.serving.replay.comparison import (
    answers_obstacle,
    non_finite_rows,
    pair,
    prediction_scores,
)
from platform_assets.serving.replay.judging import Finding, ReplayVerdict, judge_replay
from platform_assets.serving.replay.logged import (
    Lookup,
    OutcomeLookup,
    outdated_answers,
    true_values,
)
from platform_assets.serving.replay.reading import LoggedRows, NothingToReplayError, read_logged
from platform_assets.serving.replay.rows import units
from platform_assets.serving.replay.showing import (
    finding_metadata,
    log_metadata,
    row_metadata,
)

_STAYS: Final = "production stays where it is"


class ReplayConfig(dg.Config):
    """Which logged rows a candidate answers; by default as the model file says."""

    rows: int | None = Field(default=None, ge=0, le=100_000, description="Number of rows; 0: none.")
    without_comparison: bool = Field(
        default=False,
        description="Let the version pass on its own answers when production does not answer, for "
        "example because production itself is broken.",
    )


def replay(
    candidate: LoadedVersion,
    config: ReplayConfig,
    samples: SamplesFolder,
    outcomes: OutcomeLookup,
) -> dg.AssetCheckResult:
    """Let the candidate answer the last logged requests, and judge its answers.

    Both versions answer now, on one server, so that the same input is compared; client requests
    are not affected. `outcomes` looks up the true values of logged rows.
    """
    lookup = partial(outcomes, Path(samples.root), candidate.spec)
    rows = candidate.spec.gates.replay_rows if config.rows is None else config.rows
    try:
        production = _find_production(candidate, rows)
        logged = read_logged(candidate.registered, production, samples, rows)
        return _replay_rows(candidate, production, config, logged, lookup)
    except NothingToReplayError as nothing:
        return _pass_check(candidate.identity, str(nothing))
    except ProductionUnknown as error:
        if config.without_comparison:
            return _pass_check(candidate.identity, f"nothing was replayed: {error}")
        return failed_gate(candidate.identity, str(error))
    except TritonError as error:
        reason = f"logged rows were not answered: {error}; {_STAYS}"
        return failed_gate(candidate.identity, reason)
    except SamplesError as error:
        reason = f"nothing was replayed, since the log cannot be read: {error}"
        return failed_gate(candidate.identity, reason, dg.AssetCheckSeverity.WARN)


def _find_production(candidate: LoadedVersion, rows: int) -> RegisteredVersion:
    """Return the record of the version in production.

    Raises:
        NothingToReplayError: nothing is in production, no rows are configured, or production and
            candidate have the same graph.
        ProductionUnknown: production or its record cannot be read.
    """
    if not rows:
        raise NothingToReplayError("nothing was replayed: the number of rows is set to 0")
    version = candidate.production_version
    if version is None:
        raise NothingToReplayError("there is no other version in production")
    if candidate.has_graph_of(version):
        raise NothingToReplayError(f"its graph is that of version {version}, byte for byte")
    return candidate.version_record(version)


def _replay_rows(
    candidate: LoadedVersion,
    production: RegisteredVersion,
    config: ReplayConfig,
    logged: LoggedRows,
    outcomes: Lookup,
) -> dg.AssetCheckResult:
    began, both = time.monotonic(), [(candidate.registered, logged.candidate)]
    if production.version in candidate.triton.ready_versions(production.model_name):
        both.append((production, logged.production))
    row_count, (own, *others) = answer_in_turn(candidate.triton.endpoints()[0], both)
    metadata = candidate.identity | {
        "production_version": production.version,
        "rows": row_count,
        **log_metadata(logged),
        "replay_seconds": round(time.monotonic() - began, 2),
    }
    broken = _find_failures(candidate, own, row_count, metadata)
    if not others or not others[0].is_answered.any():
        why = f"version {production.version} does not answer, and was not compared"
        if not config.without_comparison:
            hint = "launch with `replay: {without_comparison: true}` to replace it all the same"
            broken.append(f"{why}; {hint}")
        return _check_result(metadata, broken, [], why)
    why = answers_obstacle(production.signature, candidate.registered.signature)
    if why:
        return _check_result(metadata, broken, [], f"answers were not compared: {why}")
    findings = _compare_answers(candidate, production, logged, (own, others[0]), outcomes, metadata)
    return _check_result(metadata, broken, findings, f"{row_count} logged rows were replayed")


def _find_failures(
    candidate: LoadedVersion, own: VersionAnswers, row_count: int, metadata: dict[str, Any]
) -> list[str]:
    """Describe the rows that the candidate did not answer, or not with finite numbers."""
    infinite, failures = non_finite_rows(own, candidate.registered.signature), own.failures
    metadata |= {"rows_failed": len(failures), "rows_not_finite": len(infinite)}
    sentences = []
    if failures:
        first = next(iter(failures.values()))
        sentences.append(f"it cannot answer {len(failures)} of {row_count} logged rows ({first})")
    if len(infinite):
        sentences.append(
            f"it answers {len(infinite)} of {row_count} logged rows with NaN or infinity"
        )
    return sentences


def _compare_answers(
    candidate: LoadedVersion,
    production: RegisteredVersion,
    logged: LoggedRows,
    answers: tuple[VersionAnswers, VersionAnswers],
    outcomes: Lookup,
    metadata: dict[str, Any],
) -> list[Finding]:
    spec, new = candidate.spec, candidate.registered.signature
    rows = candidate.evaluation
    held_out = prediction_scores(rows.labels, rows.probabilities, new.classes)
    compared = pair(new, production.signature, *answers, held_out)
    truth = None
    try:
        truth = true_values(logged.table, compared, new, outcomes)
    except SamplesError as error:  # the other guards need no outcomes
        metadata["outcomes"] = f"not joined: {error}"
    findings = judge_replay(
        compared,
        units(logged.table)[compared.rows],
        (answers[0].seconds, answers[1].seconds),
        spec.gates.replay,
        spec.gates.confidence,
        truth,
    )
    differ, logged_count = outdated_answers(logged.table, compared, production.version)
    metadata |= {
        "rows_compared": len(compared.rows),
        "rows_labelled_differently": int(compared.is_relabelled.sum()),
        "logged_answers_not_given_now": f"{differ} of {logged_count}",
        "production_rows_failed": len(answers[1].failures),
        **{f"{name}_p99_ms": round(float(np.quantile(run.seconds, 0.99)) * 1e3, 2)
           for name, run in zip(("candidate", "production"), answers, strict=True) if run.seconds},
    }  # fmt: skip
    shown = spec.gates.replay.rows_shown
    metadata |= row_metadata(logged.table, logged.candidate, compared, shown)
    if findings:
        metadata |= finding_metadata(findings)
    return findings


def _check_result(
    metadata: dict[str, Any], broken: list[str], findings: list[Finding], otherwise: str
) -> dg.AssetCheckResult:
    """Return the check of the worst finding; an inconclusive one is a warning."""
    by_verdict = {
        verdict: [finding.sentence for finding in findings if finding.verdict is verdict]
        for verdict in ReplayVerdict
    }
    broken = broken + by_verdict[ReplayVerdict.BROKEN]
    if broken:
        return failed_gate(metadata, "; ".join([*broken, _STAYS]))
    if inconclusive := by_verdict[ReplayVerdict.OPEN]:
        return failed_gate(metadata, "; ".join(inconclusive), dg.AssetCheckSeverity.WARN)
    return _pass_check(metadata, otherwise)


def _pass_check(metadata: dict[str, Any], description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True, description=description, metadata=metadata)
