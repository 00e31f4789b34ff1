"""Checks of the training, with their measurements as metadata."""

# No postponed annotations here: Dagster reads them.
import dagster as dg
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.metadata import picture, table
from platform_assets.resources.records import TrainedModel
from platform_assets.training.floor import judge_floor
from platform_assets.training.metrics import chosen_metric
from platform_assets.training.slices import SliceVerdict, describe_floor, floor_row, judge_slices


def training_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the checks of `trained_model` of one model."""
    return [_metric_floor(spec), _evaluation_classes(spec)]


def _metric_floor(spec: ModelSpec) -> dg.AssetChecksDefinition:
    metric = chosen_metric(spec.evaluation)
    bound = "least" if metric.higher_is_better else "largest"

    class MetricFloor(dg.Config):
        metric_floor: float = Field(
            default=spec.gates.metric_floor,
            description=f"The {bound} {metric.name} on the evaluation rows that passes.",
        )

    @dg.asset_check(
        asset=dg.AssetKey(spec.key("trained_model")),
        name="metric_floor",
        blocking=True,
        description=f"The {metric.name} on held-out rows is good enough.",
    )
    def metric_floor(trained_model: TrainedModel, config: MetricFloor) -> dg.AssetCheckResult:
        measured, floor = trained_model.metric, config.metric_floor
        verdict = judge_floor(metric, measured, floor, trained_model.evaluation_rows, spec.gates)
        slices = judge_slices(metric, trained_model.slices, floor, spec.gates)
        missed = [slice_ for slice_ in slices if slice_.verdict is SliceVerdict.MISSED]
        reasons = [verdict.reason, *(describe_floor(metric, slice_, floor) for slice_ in missed)]
        description, passed = "; ".join(filter(None, reasons)), verdict.passed and not missed
        return dg.AssetCheckResult(
            passed=passed,
            description=(
                description
                if passed
                else f"{description}: this model is not registered, and production stays as it is. "
                "Give it rows or features that tell more, or lower gates.metric_floor"
            )
            or None,
            metadata={
                "metric": metric.name,
                "value": measured.value,
                "metric_floor": floor,
                "margin": metric.gain(measured.value, floor),
                "evaluation": picture(trained_model.picture, "answers for the evaluation rows"),
                "low": measured.low,
                "high": measured.high,
                "confidence": measured.confidence,
                "proven": verdict.proven,
                "evaluation_rows": trained_model.evaluation_rows,
                **({"slices": table(map(floor_row, slices))} if slices else {}),
                "run_id": trained_model.run_id,
            },
        )

    return metric_floor


def _evaluation_classes(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=dg.AssetKey(spec.key("trained_model")),
        name="evaluation_classes",
        description="Every class has evaluation rows; a warning, as rare ones may have none.",
    )
    def evaluation_classes(trained_model: TrainedModel) -> dg.AssetCheckResult:
        missing = trained_model.classes_not_evaluated
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            description=(
                f"no evaluation row has the class {', '.join(repr(label) for label in missing)}: "
                "how well the model recognizes it is unknown; add rows of it"
                if missing
                else None
            ),
            metadata={
                "classes": len(trained_model.signature.classes),
                "classes_not_evaluated": dg.MetadataValue.json(list(missing)),
            },
        )

    return evaluation_classes
