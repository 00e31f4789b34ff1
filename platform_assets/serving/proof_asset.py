"""`serving_proof`: the evidence of a switch, kept as files and as metadata."""

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import as_failure
from platform_assets.resources.folders import ProofFolder
from platform_assets.resources.gateway import GatewayClientError, GatewayResource
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.serving.ledger import read_ledger
from platform_assets.serving.promotion import COMPARISON
from platform_assets.serving.proof import PROOF_PAGE, collect_proof
from platform_assets.serving.records import Promotion
from platform_assets.serving.turns import LEASE, acquire_turn

_CONFIRMED = "The switch itself was confirmed by every replica."


def serving_proof_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """Build `serving_proof`."""

    @dg.asset(
        **spec.asset("serving_proof"),
        ins={"gateway_reload": dg.AssetIn(key=spec.key("gateway_reload"))},
        kinds={"json"},
        description=(
            "The evidence, as files and as metadata: what Triton and every gateway say now, and "
            "the deployment ledger."
        ),
    )
    def serving_proof(
        context: dg.AssetExecutionContext,
        triton: TritonResource,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        proof_folder: ProofFolder,
        gateway_reload: Promotion,
    ) -> dg.MaterializeResult[str]:
        acquire_turn(LEASE, spec.model_name, context)
        with as_failure(
            "the proof could not be collected",
            "materialize serving_proof again when the server named above answers.",
            *(TritonError, GatewayClientError, RegistryError),
            still_true=_CONFIRMED,
        ):
            files = collect_proof(
                spec,
                gateway_reload,
                read_ledger(context.instance, spec),
                triton=triton,
                gateway=gateway,
                mlflow=mlflow,
            )
        with as_failure(
            f"the proof cannot be written below {proof_folder.root}",
            "make room there and let this user write to it, then materialize serving_proof again.",
            OSError,
            still_true=_CONFIRMED,
        ):
            folder = proof_folder.write(spec.model_name, context.run.run_id, files)
        verdict = gateway_reload.verdict
        picture = f"![candidate against production]({verdict.picture})"
        return dg.MaterializeResult(
            value=str(folder),
            metadata={
                "version": gateway_reload.version,
                "metric": verdict.metric,
                **({COMPARISON: dg.MetadataValue.md(picture)} if verdict.picture else {}),
                "page": dg.MetadataValue.path(str(folder / PROOF_PAGE)),
                "deployment_ledger": dg.MetadataValue.md(files["deployment_ledger.md"]),
                **{
                    name: dg.MetadataValue.md(f"```\n{text}\n```")
                    for name, text in files.items()
                    if name.endswith(".txt")
                },
            },
        )

    return serving_proof
