"""The check of batch predictions: the gateway answers a sample of the rows in the same way."""

# No postponed annotations here: Dagster reads them.
import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import is_transient, request_retry
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from platform_assets.scoring.records import BatchPredictions


def scoring_checks(spec: ModelSpec) -> list[dg.AssetChecksDefinition]:
    """Build the check `equals_online` of one model's batch predictions."""

    @dg.asset_check(
        asset=spec.key("batch_predictions"),
        name="equals_online",
        description=(
            "The gateway answers up to 200 of the rows, evenly spread, with the same labels and, "
            "but for rounding, the same numbers."
        ),
    )
    def equals_online(
        batch_predictions: BatchPredictions, gateway: GatewayResource
    ) -> dg.AssetCheckResult:
        from platform_assets.scoring.equality import compare_answers
        from platform_assets.serving.answers import ask_gateway_rows

        sample, version = batch_predictions.sample, batch_predictions.version
        try:
            answers = ask_gateway_rows(version, [list(one.values) for one in sample], gateway)
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
                "rows_compared": found.rows,
                "rows_identical": found.identical,
                "largest_difference": found.largest_difference,
                "examples": dg.MetadataValue.json(list(found.differing[:10])),
            },
        )

    return [equals_online]
