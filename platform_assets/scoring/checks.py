"""The check of batch predictions: the gateway answers a sample of the rows in the same way."""

# No postponed annotations here: Dagster reads them.
from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import is_transient, request_retry
from platform_assets.resources.gateway import GatewayClientError, GatewayRefused, GatewayResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.scoring.records import BatchPredictions, SampledRow

_NO_LOOKUPS: Final = "features_off"
"""Code of a gateway's refusal when it has no feature store, or the version no feature service."""


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
        from platform_assets.scoring.equality import compare_answers

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
        found = compare_answers(sample, *answers)
        return dg.AssetCheckResult(
            passed=not found.differing,
            description=f"{len(found.differing)} of {found.rows} rows differ"
            if found.differing
            else None,
            metadata={
                "version": version.version,
                "features": features,
                "rows_compared": found.rows,
                "rows_identical": found.identical,
                "largest_difference": found.largest_difference,
                "examples": dg.MetadataValue.json(list(found.differing[:10])),
            },
        )

    return [equals_online]


def _ask(
    version: RegisteredVersion, sample: Sequence[SampledRow], gateway: GatewayResource
) -> tuple[str, tuple[list[Any], list[list[float]]]]:
    """Where the gateway took the features from, and its answers."""
    from platform_assets.serving.answers import ask_gateway_entities, ask_gateway_rows

    if any(one.entity for one in sample):
        entities, request = [one.entity for one in sample], [one.request for one in sample]
        try:
            return "online store", ask_gateway_entities(version, entities, request, gateway)
        except GatewayRefused as refusal:
            if refusal.code != _NO_LOOKUPS:
                raise
    return "sent", ask_gateway_rows(version, [one.values for one in sample], gateway)
