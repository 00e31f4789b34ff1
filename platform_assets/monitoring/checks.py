"""The check of a drift report, which only warns."""

# No postponed annotations here: Dagster reads them.
from typing import Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.monitoring.page import summary
from platform_assets.monitoring.records import PREDICTION, DriftReport

DRIFT: Final = "drift"
JUDGED: Final = "judged"
"""Metadata key of the check: false if there was nothing to compare with."""


def drift_check_key(spec: ModelSpec) -> dg.AssetCheckKey:
    """Return the key of a model's drift check."""
    return dg.AssetCheckKey(dg.AssetKey(spec.key("drift_report")), DRIFT)


def drift_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the check `drift` of one model's report."""

    @dg.asset_check(
        asset=spec.key("drift_report"),
        name=DRIFT,
        blocking=False,
        description=(
            "No feature and no answer moved further from the training set than "
            f"{spec.gates.drift_limit:g}, by population stability index; no texts are new "
            "or vanished."
        ),
    )
    def drift(drift_report: DriftReport) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=drift_report.judged and not drift_report.drifted,
            severity=dg.AssetCheckSeverity.WARN,
            description=summary(drift_report),
            metadata={
                "version": drift_report.version,
                "samples": drift_report.rows,
                "enough_samples": drift_report.enough,
                JUDGED: drift_report.judged,
                "drift_limit": drift_report.drift_limit,
                "drifted_features": _list_columns(drift_report, prediction=False),
                "drifted_predictions": _list_columns(drift_report, prediction=True),
            },
        )

    return [drift]


def _list_columns(report: DriftReport, *, prediction: bool) -> str:
    names = [c.name for c in report.drifted if (c.kind == PREDICTION) is prediction]
    return ", ".join(names) or "none"
