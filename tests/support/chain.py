"""The first half of the chain, for tests: from a source file to a registered version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from platform_assets.features.assets import feature_assets
from platform_assets.features.checks import feature_checks
from platform_assets.features.sample_data import write_iris_source
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.source import SourceResource
from platform_assets.training.assets import training_assets
from platform_assets.training.checks import training_checks
from tests.support.models import IRIS

UNREACHABLE = "http://127.0.0.1:9"
FEATURE_ASSETS = ("features", "online_features")
TRAINING_ASSETS = ("trained_model", "registered_model")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of one model did: values by asset, checks by "asset.check", failures by step.

    Assets and steps go by their names without the model's.
    """

    success: bool
    values: dict[str, Any]
    checks: dict[str, dg.AssetCheckEvaluation]
    failures: dict[str, str]
    metadata: dict[str, dict[str, Any]]


@dataclass(slots=True)
class Chain:
    """One state directory with a source file, and the resources that belong to it."""

    home: Path
    feast: FeastResource
    mlflow: MlflowResource
    spec: ModelSpec
    instance: dg.DagsterInstance

    @property
    def source(self) -> Path:
        """The source file."""
        return self.home / "iris.csv"

    def run(
        self, *assets: str, run_config: dict[str, Any] | None = None, checks: bool = True
    ) -> Outcome:
        """Materialize these assets (default: all) with their checks, in this process."""
        definitions: Sequence[Any] = [
            *feature_assets(self.spec),
            *training_assets(self.spec),
            *(feature_checks(self.spec) if checks else []),
            *(training_checks(self.spec) if checks else []),
        ]
        names = assets or FEATURE_ASSETS + TRAINING_ASSETS
        selection = dg.AssetSelection.assets(*(self.spec.key(name) for name in names))
        result = dg.materialize(
            definitions,
            selection=selection,
            resources={
                "source": SourceResource(variables={"SOURCE_PATH": str(self.source)}),
                "feast": self.feast,
                "mlflow": self.mlflow,
                # Values of an earlier run, kept where the next one finds them.
                "io_manager": dg.FilesystemIOManager(base_dir=str(self.home / "values")),
            },
            instance=self.instance,
            run_config=run_config,
            raise_on_error=False,
        )
        return outcome_of(result)


def new_chain(
    home: Path, *, mlflow_url: str = UNREACHABLE, redis: str = "", spec: ModelSpec = IRIS
) -> Chain:
    """Return a chain on a fresh state directory with the sample source."""
    write_iris_source(home / "iris.csv")
    return Chain(
        home=home,
        feast=FeastResource(
            state_dir=str(home / "feast"),
            online_store="redis" if redis else "sqlite",
            redis=redis,
        ),
        mlflow=MlflowResource(tracking_uri=mlflow_url),
        spec=spec,
        instance=dg.DagsterInstance.ephemeral(),
    )


def op_config(asset: str, config: dict[str, Any], spec: ModelSpec = IRIS) -> dict[str, Any]:
    """Run configuration of one asset."""
    return {"ops": {f"{spec.model_name}__{asset}": {"config": config}}}


def outcome_of(result: dg.ExecuteInProcessResult) -> Outcome:
    """What a person would see of a run."""
    values: dict[str, Any] = {}
    metadata: dict[str, dict[str, Any]] = {}
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            name = made.asset_key.path[-1]
            values[name] = result.output_for_node(made.asset_key.to_python_identifier())
            metadata[name] = dict(made.metadata)
    checks = {
        f"{one.asset_key.path[-1]}.{one.check_name}": one
        for one in result.get_asset_check_evaluations()
    }
    return Outcome(result.success, values, checks, failures_of(result), metadata)


def failures_of(result: dg.ExecuteInProcessResult | dg.JobExecutionResult) -> dict[str, str]:
    """What each failed step said."""
    failures: dict[str, str] = {}
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data and data.user_failure_data.description
            step = str(event.step_key).partition("__")[2] or str(event.step_key)
            failures[step] = said or data.error_display_string
    return failures
