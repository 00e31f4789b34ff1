"""The gates that compare a loaded candidate with production and with what clients send."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from platform_assets.model_spec import ModelSpec
from platform_assets.packaging.onnx_export import graph_contract
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.gateway import GatewayClientError, GatewayResource, routed_version
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.champion import Duel, duel
from platform_assets.serving.compatibility import (
    frame_contract,
    in_order_of,
    not_comparable,
    signature_differences,
)
from platform_assets.serving.parity import Answers, ask_triton
from platform_assets.serving.pictures import duel_picture
from platform_assets.serving.promotion import LOAD_ID
from platform_assets.serving.records import ServingState
from platform_assets.serving.switching import PRODUCTION
from platform_assets.training.graph.builder import ExportError
from platform_assets.training.metrics import METRICS, Metric
from platform_assets.training.metrics import Answers as Measured
from platform_assets.training.pictures import inline
from serving_gateway.contract import MODEL_FILE, feature_contract


def champion_gates(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build `no_regression`, `schema_compatible` and `feature_contract` of one model."""
    return [_no_regression(spec), _schema_compatible(spec), _feature_contract(spec)]


@dataclass(frozen=True, slots=True)
class _Production:
    """The version that clients get now; None where there is none."""

    version: int | None
    problem: str | None = None
    """Why that cannot be told."""


def _production(model_name: str, gateway: GatewayResource) -> _Production:
    try:
        statuses = gateway.model_statuses(model_name)
    except GatewayClientError as error:
        return _Production(None, f"the gateway could not be asked what is in production: {error}")
    routed = {routed_version(status, PRODUCTION) for status in statuses} - {None}
    if len(routed) > 1:
        return _Production(None, f"the gateway's replicas disagree about production: {routed}")
    return _Production(routed.pop() if routed else None)


def _judged(state: ServingState) -> dict[str, Any]:
    return {"version": state.version, LOAD_ID: state.load_id}


def _no_regression(spec: ModelSpec) -> dg.AssetChecksDefinition:
    class RegressionGate(dg.Config):
        """When a candidate counts as worse than production."""

        metric_floor: float = Field(
            default=spec.gates.metric_floor,
            description="Worst value of the metric that is allowed, as served.",
        )
        tolerance: float = Field(
            default=spec.gates.regression_tolerance,
            ge=0,
            description="How much worse than production it may be, in the unit of the metric.",
        )
        without_comparison: bool = Field(
            default=False,
            description="Let it pass on the floor alone although production cannot be asked: for "
            "when production itself is broken.",
        )

    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="no_regression",
        blocking=True,
        description=(
            f"As served, the candidate's {spec.evaluation.metric} keeps the floor, and it is not "
            "worse than production on the same evaluation rows: paired, with a confidence "
            "interval. The first version passes on the floor alone."
        ),
    )
    def no_regression(
        triton_serving_state: ServingState,
        config: RegressionGate,
        triton: TritonResource,
        gateway: GatewayResource,
        mlflow: MlflowResource,
    ) -> dg.AssetCheckResult:
        state, metric = triton_serving_state, METRICS[spec.evaluation.metric]
        judged = {**_judged(state), "metric": metric.name, "floor": config.metric_floor}
        with mlflow_failures("no_regression"):
            candidate = mlflow.version(spec.model_name, state.version)
            evaluation = mlflow.evaluation_set(state.run_id)
        try:
            new = _answers(candidate, evaluation, triton)
        except TritonError as error:
            return _refused(judged, f"version {state.version} did not answer: {error}")
        value = _score(metric, candidate, evaluation, new)(None)
        judged[metric.name] = value
        if not metric.meets(value, config.metric_floor):
            return _refused(
                judged,
                f"{metric.name} {value:.4g} does not reach the floor {config.metric_floor:.4g}; "
                "production stays where it is",
            )
        production = _production(spec.model_name, gateway)
        if production.version in (None, state.version) and production.problem is None:
            said = "there is no other version in production; the floor alone decides"
            return dg.AssetCheckResult(passed=True, description=said, metadata=judged)
        try:
            result = _compared(spec, production, candidate, evaluation, new, triton, mlflow)
        except _NotComparable as error:
            return dg.AssetCheckResult(
                passed=config.without_comparison or (spec.gates.allow_breaking and error.schema),
                description=f"production was not compared: {error}",
                metadata=judged,
            )
        judged["production_version"] = production.version
        return _verdict(spec, metric, result, config.tolerance, judged)

    return no_regression


class _NotComparable(Exception):
    """Production cannot be asked about the evaluation rows."""

    def __init__(self, message: str, *, schema: bool = False) -> None:
        super().__init__(message)
        self.schema = schema
        """Whether that is because it reads other features."""


def _compared(
    spec: ModelSpec,
    production: _Production,
    candidate: RegisteredVersion,
    evaluation: EvaluationSet,
    new: Answers,
    triton: TritonResource,
    mlflow: MlflowResource,
) -> Duel:
    metric = METRICS[spec.evaluation.metric]
    old = _champion(production, candidate, evaluation, triton, mlflow)
    result = duel(
        _score(metric, candidate, evaluation, new),
        _score(metric, candidate, evaluation, old),
        evaluation.groups,
        greater_is_better=metric.higher_is_better,
        confidence=spec.gates.confidence,
        seed=spec.evaluation.seed,
    )
    if not math.isfinite(result.gain):
        raise _NotComparable(f"version {production.version} has no {metric.name} at all")
    return result


def _champion(
    production: _Production,
    candidate: RegisteredVersion,
    evaluation: EvaluationSet,
    triton: TritonResource,
    mlflow: MlflowResource,
) -> Answers:
    """What production answers for the evaluation rows, in the order of the candidate's classes."""
    version = production.version
    if version is None:
        raise _NotComparable(production.problem or "nobody knows what is in production")
    with mlflow_failures("no_regression"):
        champion = mlflow.version(candidate.model_name, version)
    old, new = champion.signature, candidate.signature
    why = not_comparable(old, new)
    if why:
        raise _NotComparable(f"version {version} {why}", schema=True)
    try:
        labels, probabilities = _answers(champion, evaluation, triton)
    except TritonError as error:
        raise _NotComparable(f"version {version} did not answer: {error}") from error
    if probabilities is not None:
        probabilities = in_order_of(new.classes, probabilities, old.classes)
    return labels, probabilities


def _answers(
    version: RegisteredVersion, evaluation: EvaluationSet, triton: TritonResource
) -> Answers:
    return ask_triton(
        evaluation.features,
        version.signature,
        triton,
        model_name=version.model_name,
        version=version.version,
    )


def _score(
    metric: Metric, version: RegisteredVersion, evaluation: EvaluationSet, answers: Answers
) -> Callable[[Any], float]:
    """The metric on chosen rows (positions); None chooses all of them."""
    labels, probabilities = answers

    def score(rows: Any) -> float:
        chosen = slice(None) if rows is None else rows
        return metric.compute(
            Measured(
                evaluation.label_true[chosen],
                labels[chosen],
                None if probabilities is None else probabilities[chosen],
                version.signature.classes,
            )
        )

    return score


def _verdict(
    spec: ModelSpec,
    metric: Metric,
    result: Duel,
    tolerance: float,
    judged: dict[str, Any],
) -> dg.AssetCheckResult:
    production = judged["production_version"]
    worse = result.regression(tolerance)
    picture = duel_picture(result, metric.name, tolerance, judged["version"], production)
    return dg.AssetCheckResult(
        passed=worse is None,
        description=(
            f"against version {production}: {worse}; production stays where it is"
            if worse
            else f"gain over version {production}: {result.gain:+.4g} "
            f"({spec.gates.confidence:.0%}: {result.low:+.4g} to {result.high:+.4g})"
        ),
        metadata={
            **judged,
            f"production_{metric.name}": result.champion,
            "gain": result.gain,
            "gain_low": result.low,
            "gain_high": result.high,
            "confidence": spec.gates.confidence,
            "tolerance": tolerance,
            "comparison": dg.MetadataValue.md(inline(picture, "candidate against production")),
        },
    )


def _refused(metadata: dict[str, Any], why: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description=why, metadata=metadata)


def _schema_compatible(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="schema_compatible",
        blocking=True,
        description=(
            "What clients send to the version in production, this version takes too, and it "
            "answers in the same terms. A breaking change needs `allow_breaking: true`."
        ),
    )
    def schema_compatible(
        triton_serving_state: ServingState, gateway: GatewayResource, mlflow: MlflowResource
    ) -> dg.AssetCheckResult:
        state = triton_serving_state
        judged = {**_judged(state), "allow_breaking": spec.gates.allow_breaking}
        production = _production(spec.model_name, gateway)
        if production.problem is not None:
            return _refused(judged, production.problem)
        if production.version in (None, state.version):
            said = "there is no other version in production"
            return dg.AssetCheckResult(passed=True, description=said, metadata=judged)
        with mlflow_failures("schema_compatible"):
            new = mlflow.version(spec.model_name, state.version).signature
            old = mlflow.version(spec.model_name, production.version).signature
        breaking = signature_differences(old, new)
        return dg.AssetCheckResult(
            passed=spec.gates.allow_breaking or not breaking,
            description="; ".join(breaking) or None,
            metadata={
                **judged,
                "production_version": production.version,
                "breaking_changes": dg.MetadataValue.json(breaking),
            },
        )

    return schema_compatible


def _feature_contract(spec: ModelSpec) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=spec.key("triton_serving_state"),
        name="feature_contract",
        blocking=True,
        description=(
            "Names, types and order of the features are the same in the model file, in Feast's "
            "service, in the rows of the training, in the ONNX graph on disk and in the "
            "signature that the gateway routes by."
        ),
    )
    def feature_contract_(
        triton_serving_state: ServingState,
        feast: FeastResource,
        mlflow: MlflowResource,
        model_repository: ModelRepository,
    ) -> dg.AssetCheckResult:
        state = triton_serving_state
        path = model_repository.path(spec.model_name, state.version) / MODEL_FILE
        with mlflow_failures("feature_contract"):
            signature = mlflow.version(spec.model_name, state.version).signature
            evaluation = mlflow.evaluation_set(state.run_id)
        try:
            digests = {
                "model file": spec.contract,
                "feature store": feast.service_contract(spec.feature_service),
                "training rows": frame_contract(evaluation.features, signature),
                "ONNX graph": graph_contract(path.read_bytes()),
                "gateway signature": feature_contract(signature.features),
            }
        except (FeatureStoreError, ExportError, OSError) as error:
            return _refused(_judged(state), f"a contract could not be read: {error}")
        other = [where for where, digest in digests.items() if digest != spec.contract]
        return dg.AssetCheckResult(
            passed=not other,
            description=f"another contract: {', '.join(other)}" if other else None,
            metadata={
                **_judged(state),
                "contract": spec.contract,
                "contracts": dg.MetadataValue.table(
                    [
                        dg.TableRecord({"where": where, "contract": digest})
                        for where, digest in digests.items()
                    ]
                ),
            },
        )

    return feature_contract_
