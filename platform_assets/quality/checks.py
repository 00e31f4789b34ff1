"""A check that warns if live quality misses the floor or the offline estimate."""

from __future__ import annotations

from typing import Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.records import OfflineEstimate, QualityReport, VersionQuality
from serving_gateway.contract import UNREADABLE_SUFFIX

KEPT: Final = "quality_kept"


def quality_check(spec: ModelSpec) -> dg.AssetCheckSpec:
    """Return the spec of the check that `live_quality` evaluates on the measured day."""
    return dg.AssetCheckSpec(
        KEPT,
        asset=spec.key("live_quality"),
        description=(
            f"The bounds of {spec.evaluation.metric} on matured predictions exclude neither the "
            f"floor {spec.gates.metric_floor:g} nor the "
            "version's estimate on held-out rows, and rows with an outcome can be measured."
        ),
    )


def quality_check_result(report: QualityReport) -> dg.AssetCheckResult:
    """Judge a day; one without matured outcomes passes."""
    broken = find_shortfalls(report)
    return dg.AssetCheckResult(
        check_name=KEPT,
        passed=not broken,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(broken) or summary(report),
        metadata={
            "day": report.day,
            "floor": report.floor,
            "judged": bool(report.versions),
            "broken": "\n".join(broken) or "nothing",
        },
    )


def find_shortfalls(report: QualityReport) -> list[str]:
    """Return a sentence for each floor or offline estimate that a version's bounds exclude.

    A value alone shows nothing: on few rows it may lie anywhere. A version whose rows cannot be
    measured at all has a sentence, too, and one with answers that are not finite: nothing else
    would show how bad it is.
    """
    sentences = []
    for quality in report.versions:
        if quality.not_finite:
            sentences.append(
                f"version {quality.version} answered {quality.not_finite:,} of {quality.rows:,} "
                "rows with a NaN or an infinity"
            )
        if not quality.measured_rows:
            sentences.append(_describe_unmeasured(report, quality))
            continue
        best = quality.high if report.higher_is_better else quality.low
        side = "at most" if report.higher_is_better else "at least"
        what = f"version {quality.version}: {report.metric} is {side} {best:.4g}"
        if not _meets(report, best, report.floor):
            sentences.append(f"{what}, and the floor is {report.floor:.4g}")
        offline = report.offline.get(quality.version)
        if isinstance(offline, OfflineEstimate):
            worst = offline.low if report.higher_is_better else offline.high
            if not _meets(report, best, worst):
                sentences.append(
                    f"{what}, and held-out rows gave {offline.value:.4g} "
                    f"({offline.low:.4g} to {offline.high:.4g})"
                )
    return sentences


def _describe_unmeasured(report: QualityReport, quality: VersionQuality) -> str:
    offline = report.offline.get(quality.version)
    reason = f" ({offline})" if isinstance(offline, str) else ""
    return (
        f"version {quality.version}: {report.metric} cannot be measured on "
        f"{quality.rows:,} rows with an outcome, as none has the classes and probabilities of "
        f"the version; where these are not known, list `classes` in the model file{reason}"
    )


def _meets(report: QualityReport, value: float, bound: float) -> bool:
    # NaN is an unknown value and excludes nothing.
    return not (value < bound if report.higher_is_better else value > bound)


def summary(report: QualityReport) -> str:
    """Return the report in one sentence."""
    aside = report.counts.files_set_aside
    if not aside:
        return _summary(report)
    files = "1 file" if aside == 1 else f"{aside} files"
    return f"{_summary(report)}; {files} of the log cannot be read (*{UNREADABLE_SUFFIX})"


def _summary(report: QualityReport) -> str:
    counts = report.counts
    if not counts.predictions:
        return f"no prediction of {report.day} is in the log"
    if not counts.matured:
        return f"none of {counts.predictions:,} predictions of {report.day} is matured yet"
    if not counts.answered:
        return f"no outcome of {counts.matured:,} matured predictions of {report.day} is known"
    values = "; ".join(_value(report, version) for version in report.versions)
    share = f"{counts.coverage:.1%} of {counts.matured:,} matured predictions have an outcome"
    return f"{values}; {share}"


def _value(report: QualityReport, version: VersionQuality) -> str:
    return (
        f"version {version.version}: {report.metric} {version.value:.4g} "
        f"({version.low:.4g} to {version.high:.4g}) on {version.rows:,} rows"
    )
