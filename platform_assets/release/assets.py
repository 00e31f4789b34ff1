"""`[model, release]`: an external asset, and its checks, one for each guardrail."""

from collections.abc import Iterator

import dagster as dg

from platform_assets.model_spec import ModelSpec, ReleaseSpec
from platform_assets.release.record import RELEASE, guard_evaluation, release_key
from platform_assets.resources.failures import as_failure
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from serving_gateway.contract import Guard, ReleaseEvidence, judge_guards


def release_asset(spec: ModelSpec) -> dg.AssetSpec:
    """Return the asset whose materializations are the decisions of the releases."""
    return dg.AssetSpec(
        **spec.asset(RELEASE),
        kinds={"fastapi"},
        deps=[spec.key("triton_serving_state")],
        description=(
            "The release of a version in steps, which the gateways carry out: each decision of "
            "the sensor `release_pilot`, of a person or of a gateway, with the numbers it was "
            "made by. Its state is part of the gateways' routing record."
        ),
    )


def release_checks(spec: ModelSpec, steps: ReleaseSpec) -> dg.AssetChecksDefinition:
    """Build one check for each guardrail; `release_pilot` reports them with its decisions."""

    @dg.multi_asset_check(
        name=f"{spec.model_name}__release_guards",
        specs=[
            dg.AssetCheckSpec(
                guard.value,
                asset=release_key(spec),
                description=f"{_MEANINGS[guard]}: at most {margin:g}. Fails when the bounds of "
                "all evidence lie beyond that, which stops the release.",
            )
            for guard, margin in steps.guardrails.items()
        ],
        can_subset=True,
    )
    def release_guards(
        context: dg.AssetCheckExecutionContext, gateway: GatewayResource
    ) -> Iterator[dg.AssetCheckResult]:
        with as_failure(
            "the release was not judged",
            "bring the gateway back, then run this again",
            GatewayClientError,
        ):
            report = gateway.release(spec.model_name)
        selected = {key.name for key in context.selected_asset_check_keys}
        judged = {}
        if (release := report.release) is not None:
            evidence = report.evidence or ReleaseEvidence(release.id)
            guards = judge_guards(release.plan, release, evidence)
            judged = {
                report.guard.value: guard_evaluation(spec, release, report) for report in guards
            }
        for name in sorted(selected):
            evaluation = judged.get(name)
            yield dg.AssetCheckResult(
                check_name=name,
                passed=evaluation is None or evaluation.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=evaluation.description if evaluation else "is not judged now",
                metadata=evaluation.metadata if evaluation else None,
            )

    return release_guards


_MEANINGS = {
    Guard.FAILURES: "Share of requests that fail, the candidate's minus production's",
    Guard.LATENCY_P99: "99th percentile of the latency, the candidate's over production's",
    Guard.DISAGREEMENT: "Share of mirrored rows that both answer differently",
    Guard.SCORE_SHIFT: "Mean difference of the scores of mirrored rows, to either side",
    Guard.OUTCOME: "Mean loss on rows with known outcomes, the candidate's minus production's "
    "(only `release_pilot` joins outcomes)",
}
