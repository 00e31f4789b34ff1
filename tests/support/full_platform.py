"""The whole platform for tests: every real server, and the code location run in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg

from platform_assets import model_definitions
from platform_assets.features.sample_data import write_iris_source
from platform_assets.ledger.keys import new_private_key
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.folders import DriftReports, PredictionsFolder, ProofFolder
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.source import SourceResource
from platform_assets.resources.triton import TritonResource
from platform_assets.resources.webhook import WebhookResource
from platform_assets.serving import latency
from platform_assets.shared_definitions import monitoring_definitions
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.chain import Outcome, failures_of, op_config, outcome_of
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.models import QUICK_IRIS
from tests.support.servers import RunningMlflow, RunningTriton, run_triton

TOKEN = "control-token-of-the-tests"
TO_ENTRY = (
    "features",
    "online_features",
    "trained_model",
    "registered_model",
    "onnx_model",
    "triton_model_entry",
)
SERVING = ("triton_serving_state", "gateway_reload", "serving_proof")


@dataclass(slots=True)
class Platform:
    """One state directory, its servers and the resources that reach them."""

    home: Path
    triton: RunningTriton
    mlflow: RunningMlflow
    gateway: RunningGateway
    instance: dg.DagsterInstance
    resources: dict[str, Any]
    spec: ModelSpec = QUICK_IRIS
    _features: list[Any] = field(default_factory=list)
    """What the features that are there were made for; all models of the platform share it."""

    @property
    def repository(self) -> ModelRepository:
        """Triton's repository."""
        found = self.resources["model_repository"]
        assert isinstance(found, ModelRepository)
        return found

    @property
    def triton_client(self) -> TritonResource:
        """Triton as the assets see it."""
        found = self.resources["triton"]
        assert isinstance(found, TritonResource)
        return found

    def run(
        self,
        *assets: str,
        run_config: dict[str, Any] | None = None,
        checks: bool = True,
        **resources: Any,
    ) -> Outcome:
        """Materialize these assets (default: the whole chain) with their checks.

        `resources` stand in for those of the platform.
        """
        names = assets or TO_ENTRY + SERVING
        if "features" in names:
            # With a source or a store of the caller's, they are no other run's.
            self._features[:] = [] if resources else [self._data_of_model()]
        chosen = dg.AssetSelection.assets(*(self.spec.key(name) for name in names))
        selection = chosen if checks else chosen.without_checks()
        return self._materialize(selection, run_config, resources)

    def promote(self) -> Outcome:
        """Put a new version in production, over a pin that another test may have left.

        The features are those that are there, when they were made as this model wants them.
        """
        has_features = self._features == [self._data_of_model()]
        names = TO_ENTRY[2:] if has_features else TO_ENTRY
        outcome = self.run(
            *names, *SERVING, run_config=op_config("gateway_reload", {"unpin": True})
        )
        assert outcome.success, outcome.failures
        return outcome

    def _data_of_model(self) -> tuple[Any, ...]:
        return self.spec.model_name, self.spec.source, self.spec.features, self.spec.target

    def settled(self) -> bool:
        """Whether the newest version is in production, and nobody has pinned it."""
        newest = self.resources["mlflow"].versions(self.spec.model_name)[-1:]
        slot = self.gateway.models()["effective"].get("A")
        return [one.version for one in newest] == [self.production()] and slot["mode"] != "pinned"

    def of(self, **changes: Any) -> Platform:
        """The same platform with another model file."""
        return replace(self, spec=replace(self.spec, **changes))

    def check(self, asset: str, name: str, **resources: Any) -> dg.AssetCheckEvaluation:
        """Evaluate one check of what was materialized last, as the UI's Execute does."""
        key = dg.AssetCheckKey(dg.AssetKey(self.spec.key(asset)), name)
        outcome = self._materialize(dg.AssetSelection.checks(key), None, resources)
        return outcome.checks[f"{asset}.{name}"]

    @property
    def definitions(self) -> dg.Definitions:
        """The code location of this model, with the platform's resources."""
        return dg.Definitions.merge(
            model_definitions.build(self.spec),
            monitoring_definitions([self.spec]),
            dg.Definitions(resources=self.resources),
        )

    def job(self, name: str) -> dg.JobDefinition:
        """A job of the code location with the platform's resources."""
        return self.definitions.resolve_job_def(name)

    def execute(self, name: str, run_config: dict[str, Any] | None = None) -> dict[str, str]:
        """Run a job; return its failures by step."""
        result = self.job(name).execute_in_process(
            instance=self.instance, run_config=run_config, raise_on_error=False
        )
        return failures_of(result)

    def reconcile(self) -> dict[str, str]:
        """Run the reconcile job; return its failures by step."""
        return self.execute(f"{self.spec.model_name}_reconcile")

    def _materialize(
        self, selection: dg.AssetSelection, run_config: Any, resources: dict[str, Any]
    ) -> Outcome:
        built = model_definitions.build(self.spec)
        result = dg.materialize(
            [*(built.assets or []), *(built.asset_checks or [])],  # type: ignore[list-item] # what it holds is what materialize takes
            selection=selection,
            resources={**self.resources, **resources},
            instance=self.instance,
            run_config=run_config,
            raise_on_error=False,
        )
        return outcome_of(result)

    def production(self) -> int | None:
        """Version that the gateway routes A to and Triton has READY."""
        slot = self.gateway.models()["effective"].get("A")
        return None if slot is None or not slot["ready"] else int(slot["version"])

    def generation(self) -> int:
        """Generation of the routing record."""
        return int(self.gateway.models()["routing"]["generation"])

    def ready(self) -> tuple[int, ...]:
        """READY versions by Triton's index."""
        return self.triton_client.ready_versions(DEFAULT_MODEL)

    def answering_version(self) -> int:
        """Version that answers a prediction now."""
        answer = self.gateway.predict()
        assert answer.status_code == 200, answer.text
        return int(answer.json()["version"])


@contextlib.contextmanager
def run_platform(home: Path, mlflow: RunningMlflow) -> Iterator[Platform]:
    """Run Triton and a gateway on a fresh state directory with the sample source.

    Loads are timed by no more requests than bound a 99th percentile.
    """
    (home / "repository").mkdir(parents=True)
    write_iris_source(home / "iris.csv")
    with (
        run_triton(home / "repository", home / "triton") as triton,
        run_gateway(
            home,
            triton.http_url,
            env={"GATEWAY_MLFLOW_URL": mlflow.url, "GATEWAY_CONTROL_TOKEN": TOKEN},
        ) as gateway,
        dg.DagsterInstance.ephemeral() as instance,
        mock.patch.object(latency, "_REQUESTS", latency._FEWEST),
    ):
        gateway.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield Platform(
            home=home,
            triton=triton,
            mlflow=mlflow,
            gateway=gateway,
            instance=instance,
            resources={
                "source": SourceResource(variables={"SOURCE_PATH": str(home / "iris.csv")}),
                "feast": FeastResource(state_dir=str(home / "feast")),
                "mlflow": MlflowResource(tracking_uri=mlflow.url),
                "triton": TritonResource(
                    url=triton.http_url, grpc_url=triton.grpc_url, control_key=triton.control_key
                ),
                "model_repository": ModelRepository(root=str(home / "repository")),
                "gateway": GatewayResource(urls=gateway.url, control_token=TOKEN),
                "ledger": LedgerFolder(root=str(home / "ledger"), key=new_private_key()),
                "proof_folder": ProofFolder(root=str(home / "proof")),
                "samples": SamplesFolder(root=str(home / "samples")),
                "drift_reports": DriftReports(root=str(home / "reports")),
                "predictions": PredictionsFolder(root=str(home / "predictions")),
                "webhook": WebhookResource(),
                "io_manager": dg.FilesystemIOManager(base_dir=str(home / "values")),
            },
        )
