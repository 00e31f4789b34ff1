"""The gates of a loaded version: one step judges it and blocks it if any gate fails."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

import dagster as dg
from pydantic import Field

from platform_assets.export.inspection import ExportError, graph_contract
from platform_assets.export.parity_check import parity_check
from platform_assets.export.runtime import BLANK_ROW
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.failures import mlflow_failures
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.metadata import table
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.triton import TritonError, TritonResource
from platform_assets.resources.triton_api import READY
from platform_assets.serving.compatibility import frame_contract, signature_differences
from platform_assets.serving.latency import triton_latency
from platform_assets.serving.loaded_version import LoadedVersion, ProductionUnknown, failed_gate
from platform_assets.serving.promotion import GATES, LOAD_ID, NO_REGRESSION
from platform_assets.serving.records import ServingState
from platform_assets.serving.regression import RegressionConfig, no_regression
from platform_assets.serving.replay.gate import ReplayConfig, replay
from platform_assets.serving.replay.logged import OutcomeLookup
from platform_assets.serving.slice_gate import with_slices
from serving_gateway.contract import MODEL_FILE, feature_contract


class GateConfig(dg.Config):
    """What a run may set of the gates."""

    no_regression: RegressionConfig = Field(default=RegressionConfig())
    replay: ReplayConfig = Field(default=ReplayConfig())


def serving_gates(spec: ModelSpec, outcomes: OutcomeLookup) -> dg.AssetChecksDefinition:
    """Build the blocking checks of `triton_serving_state`, one step for all of them.

    `outcomes` looks up the true values of logged rows, where outcomes are recorded.
    """
    asset = spec.key("triton_serving_state")
    descriptions = _descriptions(spec)

    @dg.multi_asset_check(
        name=f"{spec.model_name}__serving_gates",
        specs=[
            dg.AssetCheckSpec(name, asset=asset, blocking=True, description=descriptions[name])
            for name in GATES
        ],
        ins={"triton_serving_state": dg.AssetIn(key=asset)},
        can_subset=True,
    )
    def serving_gates_(
        context: dg.AssetCheckExecutionContext,
        config: GateConfig,
        triton_serving_state: ServingState,
        triton: TritonResource,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        feast: FeastResource,
        model_repository: ModelRepository,
        samples: SamplesFolder,
    ) -> Iterator[dg.AssetCheckResult]:
        candidate = LoadedVersion(
            spec, triton_serving_state, triton, gateway, mlflow, model_repository, context.instance
        )
        judges: dict[str, Callable[[LoadedVersion], dg.AssetCheckResult]] = {
            "triton_ready": triton_ready,
            "triton_parity": triton_parity,
            "triton_latency": triton_latency,
            NO_REGRESSION: lambda version: with_slices(
                version, config.no_regression, no_regression(version, config.no_regression)
            ),
            "schema_compatible": schema_compatible,
            "feature_contract": lambda version: same_contract(version, feast),
            "replay": lambda version: replay(version, config.replay, samples, outcomes),
        }
        selected = {key.name for key in context.selected_asset_check_keys}
        for name in GATES:
            if name in selected:
                with mlflow_failures(name):
                    verdict = judges[name](candidate)
                yield dg.AssetCheckResult(
                    passed=verdict.passed,
                    check_name=name,
                    severity=verdict.severity,
                    description=verdict.description,
                    # Last: only programs need the load id, and people look for the numbers first.
                    metadata=dict(sorted(verdict.metadata.items(), key=_is_load_id)),
                )

    return serving_gates_


def _is_load_id(entry: tuple[str, object]) -> bool:
    return entry[0] == LOAD_ID


def _descriptions(spec: ModelSpec) -> dict[str, str]:
    return {
        "triton_ready": "Triton reports exactly this version READY, by the repository index and by "
        "the versioned ready endpoint, asked now.",
        "triton_parity": "Over the wire, this version answers the whole evaluation set as "
        f"scikit-learn did: labels equal but for ties, numbers within tolerance. It also answers "
        f"{BLANK_ROW}.",
        "triton_latency": "Single rows are answered within "
        f"{spec.gates.latency_ms:g} ms at the 99th percentile, by its upper bound, for one client "
        "and for eight at once.",
        NO_REGRESSION: f"As served, the candidate's {spec.evaluation.metric} keeps the floor, and "
        "on rows that neither learned from it is not worse than production, nor than the best "
        "version that was ever in production, by more than the margin. The first version passes "
        "on the floor alone.",
        "schema_compatible": "What clients send to the version in production, this version takes "
        "too, and it answers in the same terms. A breaking change needs `allow_breaking: true`.",
        "feature_contract": "Names, types and order of the features are the same in the model "
        "file, in Feast's service, in the rows of the training, in the ONNX graph on disk and in "
        "the signature that the gateway routes by.",
        "replay": f"The last {spec.gates.replay_rows:,} logged rows are answered by "
        "both versions now: the candidate answers all, with finite numbers, and is not shown to "
        "differ from production beyond `gates.replay`. With nothing logged it passes."
        if spec.gates.replay_rows
        else "Switched off: `gates.replay_rows` is 0.",
    }


def triton_ready(candidate: LoadedVersion) -> dg.AssetCheckResult:
    """Ask every Triton now, through two of its APIs, whether exactly this version is READY."""
    state, triton = candidate.state, candidate.triton
    metadata = {**candidate.identity, "run_id": state.run_id}
    try:
        indexes = dict(
            triton.everywhere(lambda endpoint: (endpoint.url, endpoint.index(state.model_name)))
        )
        endpoint = triton.version_ready(state.model_name, state.version)
    except TritonError as error:
        return failed_gate(metadata, f"Triton could not be asked: {error}")
    problems = []
    for url, index in indexes.items():
        entry = next((entry_ for entry_ in index if entry_.version == state.version), None)
        if entry is None or entry.state != READY:
            why = "never loaded" if entry is None else entry.reason or entry.state
            problems.append(f"{why} at {url}")
    passed = endpoint and not problems
    reason = state.reason or "; ".join(problems) or "Triton gives no reason"
    lines = [(url, entry) for url, index in indexes.items() for entry in index]
    return dg.AssetCheckResult(
        passed=passed,
        description=f"version {state.version} is READY"
        if passed
        else f"version {state.version} is not READY ({reason}); production stays where it is",
        metadata={
            **metadata,
            "repository_index": table(
                {"server": url, **asdict(entry), "version": entry.version or 0}
                for url, entry in lines
            ),
            "index_says_ready": not problems,
            "endpoint_says_ready": endpoint,
        },
    )


def triton_parity(candidate: LoadedVersion) -> dg.AssetCheckResult:
    """Compare every server's answers for the evaluation set with those of scikit-learn.

    Each must also answer the row that gateways send as a trial, or they would refuse the release.
    """
    version = candidate.state.version
    try:
        answers = candidate.answers
    except TritonError as error:
        return failed_gate(candidate.identity, f"version {version} did not answer: {error}")
    try:
        candidate.answer_blank_row()
    except TritonError as error:
        why = f"version {version} did not answer {BLANK_ROW}: {error}; production stays where it is"
        return failed_gate(candidate.identity, why)
    for answer in answers:
        verdict = parity_check(
            "triton_parity",
            candidate.state.run_id,
            candidate.evaluation,
            answer,
            tolerance=candidate.spec.gates.parity_tolerance,
            mlflow=candidate.mlflow,
            metadata={**candidate.identity, "servers": len(answers)},
        )
        if not verdict.passed:
            break  # one server that answers differently is enough
    return verdict


def schema_compatible(candidate: LoadedVersion) -> dg.AssetCheckResult:
    """Compare this version's inputs and outputs with production's."""
    allowed = candidate.spec.gates.allow_breaking
    metadata = {**candidate.identity, "allow_breaking": allowed}
    try:
        production = candidate.production_version
        if production is None:
            reason = "there is no other version in production"
            return dg.AssetCheckResult(passed=True, description=reason, metadata=metadata)
        old = candidate.version_record(production).signature
    except ProductionUnknown as error:
        return failed_gate(metadata, str(error))
    breaking = signature_differences(old, candidate.registered.signature)
    return dg.AssetCheckResult(
        passed=allowed or not breaking,
        description="; ".join(breaking) or None,
        metadata={
            **metadata,
            "production_version": production,
            "breaking_changes": dg.MetadataValue.json(breaking),
        },
    )


def same_contract(candidate: LoadedVersion, feast: FeastResource) -> dg.AssetCheckResult:
    """Compare the digest of the features' names, types and order everywhere it is recorded."""
    spec, state = candidate.spec, candidate.state
    path = candidate.repository.path(state.model_name, state.version) / MODEL_FILE
    signature = candidate.registered.signature
    try:
        digests = {
            "model file": spec.column_contract,
            "feature store": feast.service_contract(
                spec.feature_service,
                spec.feature_names if spec.tables else (),
                [source.feature for source in spec.request],
            ),
            "training rows": frame_contract(candidate.evaluation.features, signature),
            "ONNX graph": graph_contract(path.read_bytes()),
            "gateway signature": feature_contract(signature.features),
        }
    except (FeatureStoreError, ExportError, OSError) as error:
        return failed_gate(candidate.identity, f"a contract could not be read: {error}")
    other = [where for where, digest in digests.items() if digest != spec.column_contract]
    return dg.AssetCheckResult(
        passed=not other,
        description=f"another contract: {', '.join(other)}" if other else None,
        metadata={
            **candidate.identity,
            "contract": spec.column_contract,
            "contracts": table(
                {"where": where, "contract": digest} for where, digest in digests.items()
            ),
        },
    )
