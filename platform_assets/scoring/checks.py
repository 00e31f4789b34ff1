"""The check of batch predictions: the gateway answers a sample of the rows alike."""

# No postponed annotations here: Dagster reads them.
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import is_transient, request_retry
from platform_assets.resources.gateway import GatewayClientError, GatewayRefused, GatewayResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.scoring.records import BatchPredictions, SampledRow

_NO_LOOKUPS: Final = "features_off"
"""Code of a gateway's refusal if it has no feature store, or the version no feature service."""
_ROUNDING: Final = 1e-6
"""Maximum difference of 32-bit probabilities, and relative difference of predictions, due to
summation in batches of different sizes."""


def scoring_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the check `equals_online` of one model's batch predictions."""

    @dg.asset_check(
        asset=spec.key("batch_predictions"),
        name="equals_online",
        description=(
            "The gateway answers up to 200 of the rows, evenly spread, with the same labels and, "
            "but for rounding, the same numbers. It is asked by key, where the online store has "
            "the rows."
        ),
    )
    def equals_online(
        batch_predictions: BatchPredictions, gateway: GatewayResource
    ) -> dg.AssetCheckResult:
        sample, version = batch_predictions.sample, batch_predictions.version
        try:
            features, answers = _ask(version, sample, gateway)
        except GatewayClientError as error:
            if is_transient(error):
                request_retry(error)
            return dg.AssetCheckResult(
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"the predictions of version {version.version} were not compared: "
                f"{error}",
            )
        equality = compare_answers(sample, *answers)
        return dg.AssetCheckResult(
            passed=not equality.differing,
            description=f"{len(equality.differing)} of {equality.rows} rows differ"
            if equality.differing
            else None,
            metadata={
                "version": version.version,
                "features": features,
                "rows_compared": equality.rows,
                "rows_identical": equality.identical,
                "largest_difference": equality.largest_difference,
                "examples": dg.MetadataValue.json(list(equality.differing[:10])),
            },
        )

    return [equals_online]


def _ask(
    version: RegisteredVersion, sample: Sequence[SampledRow], gateway: GatewayResource
) -> tuple[str, tuple[list[Any], list[list[float]]]]:
    """Return where the gateway took the features from, and its answers."""
    from platform_assets.serving.answers import ask_gateway_entities, ask_gateway_rows

    if any(row.entity for row in sample):
        entities, request = [row.entity for row in sample], [row.request for row in sample]
        try:
            return "online store", ask_gateway_entities(version, entities, request, gateway)
        except GatewayRefused as refusal:
            if refusal.code != _NO_LOOKUPS:
                raise
    return "sent", ask_gateway_rows(version, [row.values for row in sample], gateway)


@dataclass(frozen=True, slots=True)
class Equality:
    """How many rows were compared, how many are exactly equal, and which ones differ."""

    rows: int
    identical: int
    largest_difference: float
    differing: tuple[str, ...]


def compare_answers(
    sample: Sequence[SampledRow],
    predictions: Sequence[Any],
    probabilities: Sequence[Sequence[float]],
) -> Equality:
    """Compare the sample with the gateway's answers; no `probabilities` for a regression."""
    identical, largest, differing = 0, 0.0, []
    rows = zip(sample, predictions, probabilities or [()] * len(sample), strict=True)
    for row, prediction, shares in rows:
        pairs = list(zip(row.probabilities, shares, strict=True))
        is_number = isinstance(row.prediction, float)
        if is_number:
            pairs = [(row.prediction, float(prediction))]
        distances = [_distance(*pair, is_relative=is_number) for pair in pairs]
        largest = max([largest, *distances])
        is_same = is_number or row.prediction == prediction
        identical += is_same and not any(distances)
        # For equally likely classes, or at the threshold, the last digit decides the label.
        is_equal = is_same or any(distances)
        if not is_equal or max(distances, default=0.0) > _ROUNDING:
            differing.append(
                f"{list(row.values)}: {row.prediction!r} {list(row.probabilities)} in the file, "
                f"{prediction!r} {list(shares)} by the gateway"
            )
    return Equality(len(sample), identical, largest, tuple(differing))


def _distance(first: float, second: float, *, is_relative: bool) -> float:
    """Return the difference of two numbers in single precision."""
    import numpy as np

    left, right = float(np.float32(first)), float(np.float32(second))
    if math.isnan(left) or math.isnan(right):
        return 0.0 if math.isnan(left) and math.isnan(right) else math.inf
    size = max(abs(left), abs(right)) if is_relative else 1.0
    return abs(left - right) / size if left != right else 0.0
