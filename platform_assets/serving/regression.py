"""The gate `no_regression`: the floor as served, and the comparison with production."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from platform_assets.export.foreign_graph import InvalidGraph
from platform_assets.export.runtime import ModelAnswers
from platform_assets.model_spec import Gates, Split, WhenInconclusive
from platform_assets.resources.metadata import picture
from platform_assets.resources.model_repository import RepositoryError
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonError
from platform_assets.serving.comparison import Comparison, ComparisonVerdict, compare
from platform_assets.serving.compatibility import align_probabilities, comparison_obstacle
from platform_assets.serving.ledger import BEST_VERSION
from platform_assets.serving.loaded_version import LoadedVersion, ProductionUnknown, failed_gate
from platform_assets.serving.pictures import comparison_picture
from platform_assets.serving.promotion import COMPARISON, OWN_METRIC
from platform_assets.training.floor import describe_metric, estimate_metric, judge_floor
from platform_assets.training.metrics import Answers, chosen_metric
from platform_assets.training.splits import held_out_mask


class RegressionConfig(dg.Config):
    """When a candidate counts as worse than production; by default as the model file says."""

    metric_floor: float | None = Field(
        default=None, description="Worst value of the metric, as served, that passes."
    )
    tolerance: float | None = Field(
        default=None,
        ge=0,
        description="How much worse than production it may be: of a score in its unit, of an "
        "error as a share of production's.",
    )
    without_comparison: bool = Field(
        default=False,
        description="Let the version pass on the floor alone when production cannot be asked, for "
        "example because production itself is broken.",
    )


class NotComparableError(Exception):
    """Production cannot be asked about the evaluation rows."""

    def __init__(self, message: str, *, schema: bool = False) -> None:
        super().__init__(message)
        self.schema = schema
        """Whether that is because it reads other features."""


def no_regression(candidate: LoadedVersion, config: RegressionConfig) -> dg.AssetCheckResult:
    """Judge the candidate's own metric, then compare it with production's on the same rows.

    The best version that was ever in production is a second reference, so that individually
    tolerated losses do not add up.
    """
    spec, metric = candidate.spec, chosen_metric(candidate.spec.evaluation)
    floor = spec.gates.metric_floor if config.metric_floor is None else config.metric_floor
    metadata = {**candidate.identity, "metric": metric.name, "floor": floor}
    try:
        answers = labeled_answers(candidate, candidate.answers[0])
    except TritonError as error:
        return failed_gate(metadata, f"version {candidate.state.version} did not answer: {error}")
    rows = len(candidate.evaluation.groups)
    measured = estimate_metric(metric, answers, candidate.evaluation.groups, spec.gates.confidence)
    verdict = judge_floor(metric, measured, floor, rows, spec.gates)
    metadata |= {
        metric.name: measured.value,
        OWN_METRIC: describe_metric(metric, measured, floor),
        "low": measured.low,
        "high": measured.high,
        "floor_proven": verdict.proven,
        BEST_VERSION: candidate.state.version,
    }
    if not verdict.passed:
        return failed_gate(metadata, f"{verdict.reason}; production stays where it is")
    return _compare_with_references(candidate, answers, config, verdict.reason, metadata)


def _compare_with_references(
    candidate: LoadedVersion,
    answers: Answers,
    config: RegressionConfig,
    doubt: str,
    metadata: dict[str, Any],
) -> dg.AssetCheckResult:
    """Compare with production, and with the best version that was ever in production.

    `doubt` says what the evaluation rows cannot rule out about the candidate's own metric.
    """
    gates, best = candidate.spec.gates, candidate.best_version
    try:
        production = candidate.production_version
        if production is None:
            alone = "there is no other version in production; the floor alone decides"
            return dg.AssetCheckResult(
                passed=True,
                description="; ".join(filter(None, (alone, doubt))),
                metadata=metadata,
            )
        metadata["production_version"] = production
        if candidate.has_graph_of(production):
            # Nothing to estimate: retrained on the same data, it is the same model.
            metadata |= {
                "verdict": ComparisonVerdict.NON_INFERIOR.value,
                BEST_VERSION: best or production,
            }
            return dg.AssetCheckResult(
                passed=True,
                description=f"its graph is that of version {production}, byte for byte",
                metadata=metadata,
            )
        against = _compare_with(candidate, answers, production, config)
    except (NotComparableError, ProductionUnknown) as error:
        schema = isinstance(error, NotComparableError) and error.schema
        return dg.AssetCheckResult(
            passed=config.without_comparison or (gates.allow_breaking and schema),
            description=f"production was not compared: {error}",
            metadata=metadata,
        )
    metadata |= _comparison_metadata(candidate, against)
    references, gap = [against], ""
    if best not in (None, production, candidate.state.version):
        try:
            references.append(_compare_with(candidate, answers, best, config))
            metadata[f"gain_over_best_version_{best}"] = references[-1].result.gain.value
        except (NotComparableError, ProductionUnknown) as error:
            gap = f"version {best}, the best one, was not compared: {error}"
            # One that reads other features never will be: those that read these are the next best.
            if not (isinstance(error, NotComparableError) and error.schema):
                metadata[BEST_VERSION] = best
    if references[-1].result.gain.value < 0 and metadata[BEST_VERSION] != best:
        metadata[BEST_VERSION] = references[-1].version
    return _combined_verdict(gates, references, gap, metadata)


@dataclass(frozen=True, slots=True)
class _Reference:
    """A version that the candidate was compared with."""

    version: int
    result: Comparison
    rows: int
    chosen_by: str
    verdict: ComparisonVerdict

    @property
    def description(self) -> str:
        """The verdict in a sentence."""
        gain, needed = self.result.gain, self.result.entities_needed
        interval = (
            f"{gain.value:+.4g} ({gain.confidence:.0%}: {gain.low:+.4g} to {gain.high:+.4g}); a "
            f"loss of {self.result.margin:.4g} is tolerated"
        )
        if self.verdict is ComparisonVerdict.NON_INFERIOR:
            return f"not worse than version {self.version}: {interval}"
        if self.verdict is ComparisonVerdict.WORSE:
            return f"worse than version {self.version}: {interval}; production stays where it is"
        enough = f"; about {needed} entities would show equal versions equal" if needed else ""
        return (
            f"inconclusive at {self.rows} rows against version {self.version}: {interval}{enough}"
        )


def _compare_with(
    candidate: LoadedVersion, answers: Answers, version: int, config: RegressionConfig
) -> _Reference:
    """Compare the candidate's answers with another version's, on rows unseen by both.

    Raises:
        NotComparableError: there are no such rows, or the other version does not answer.
        ProductionUnknown: what it reads is not recorded.
    """
    gates, metric = candidate.spec.gates, chosen_metric(candidate.spec.evaluation)
    recorded = candidate.version_record(version)
    rows, chosen_by = unseen_rows(candidate, recorded)
    reference_answers = aligned_answers(candidate, recorded)
    result = compare(
        metric,
        answers.take(rows),
        reference_answers.take(rows),
        candidate.evaluation.groups[rows],
        tolerance=gates.regression_tolerance if config.tolerance is None else config.tolerance,
        confidence=gates.confidence,
    )
    count = int(rows.sum())
    if not math.isfinite(result.gain.value):
        raise NotComparableError(
            f"version {version} has no {metric.name} on the {count} rows at all"
        )
    verdict = ComparisonVerdict.INCONCLUSIVE if count < gates.min_rows else result.verdict
    return _Reference(version, result, count, chosen_by, verdict)


def labeled_answers(candidate: LoadedVersion, answers: ModelAnswers) -> Answers:
    """Return the answers to the evaluation rows together with the true labels."""
    labels, probabilities = answers
    classes = candidate.registered.signature.classes
    return Answers(candidate.evaluation.label_true, labels, probabilities, classes)


def unseen_rows(
    candidate: LoadedVersion, production: RegisteredVersion
) -> tuple[NDArray[np.bool_], str]:
    """Return which rows production was not trained on (at least one), and by what rule."""
    evaluation = candidate.evaluation
    if production.split is None:
        return (
            np.ones(len(evaluation.groups), dtype=np.bool_),
            f"all evaluation rows: what version {production.version} was trained on is not "
            "recorded",
        )
    own, rule = candidate.registered.split, production.split
    if Split(rule.split).by_entity:
        group = candidate.spec.evaluation.group if own is None else own.group
        if rule.group != group:
            raise NotComparableError(
                f"version {production.version} was trained on rows chosen by "
                f"{rule.group or 'entity'}, and the candidate's evaluation rows were by "
                f"{group or 'entity'} (evaluation.group changed)"
            )
        if own is not None and group is None and rule.entities not in (None, own.entities):
            raise NotComparableError(
                f"which rows version {production.version} was trained on cannot be told by the "
                "candidate's entities (the key changed or, of numbered rows, their columns)",
                schema=True,
            )
    rows = held_out_mask(rule, evaluation.groups, evaluation.times)
    if not rows.any():
        raise NotComparableError(
            f"version {production.version} was trained on all of the candidate's evaluation rows "
            "(evaluation.seed, fraction or split changed)"
        )
    return rows, "rows that neither version was trained on"


def aligned_answers(candidate: LoadedVersion, other: RegisteredVersion) -> Answers:
    """Return another version's answers to the evaluation rows, in the candidate's classes.

    Raises:
        NotComparableError: it reads other features, or does not answer.
    """
    new, old = candidate.registered.signature, other.signature
    why = comparison_obstacle(old, new)
    if why:
        raise NotComparableError(f"version {other.version} {why}", schema=True)
    try:
        labels, probabilities = candidate.ask(other)
    except (TritonError, RepositoryError, InvalidGraph) as error:
        raise NotComparableError(f"version {other.version} did not answer: {error}") from error
    if probabilities is not None:
        probabilities = align_probabilities(new.classes, probabilities, old.classes)
    return labeled_answers(candidate, (labels, probabilities))


def _comparison_metadata(candidate: LoadedVersion, against: _Reference) -> dict[str, Any]:
    """Metadata of the comparison with production."""
    result, metric = against.result, candidate.spec.evaluation.metric
    drawn = comparison_picture(result, metric, candidate.state.version, against.version)
    return {
        COMPARISON: picture(drawn, "candidate against production"),
        "verdict": against.verdict.value,
        "compared_rows": against.rows,
        "compared_on": against.chosen_by,
        f"production_{metric}": result.production,
        "gain": result.gain.value,
        "gain_low": result.gain.low,
        "gain_high": result.gain.high,
        "confidence": result.gain.confidence,
        "margin": result.margin,
        "entities": result.gain.entities,
    }


def _combined_verdict(
    gates: Gates, references: list[_Reference], gap: str, metadata: dict[str, Any]
) -> dg.AssetCheckResult:
    """The worst of the verdicts decides; one that is inconclusive is a warning by default.

    `gap` is the reference that is missing, if one is, and why.
    """
    verdicts = {reference.verdict for reference in references}
    blocks = (
        ComparisonVerdict.WORSE in verdicts or gates.when_inconclusive is WhenInconclusive.BLOCK
    )
    return dg.AssetCheckResult(
        passed=verdicts == {ComparisonVerdict.NON_INFERIOR},
        severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
        description=". ".join(filter(None, (*(one.description for one in references), gap))),
        metadata=metadata,
    )
