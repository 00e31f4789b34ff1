"""The features of one model on a state directory of their own, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from platform_assets.features.assets import feature_assets
from platform_assets.features.checks import feature_checks
from platform_assets.features.sample_data import write_iris_source
from platform_assets.model_spec import (
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import DType
from tests.support.models import IRIS

FEATURES, ONLINE = "features", "online_features"

MIXED = ModelSpec(
    model_name="loans",
    task=Task.BINARY,
    source=Source("${SOURCE_PATH}"),
    features=(
        FeatureSpec("income", DType.FP64, nullable=True, minimum=0),
        FeatureSpec("ratio", DType.FP32),
        FeatureSpec("children", DType.INT64, nullable=True),
        FeatureSpec("accounts", DType.INT64),
        FeatureSpec("owner", DType.BOOL),
        FeatureSpec("married", DType.BOOL, nullable=True),
        FeatureSpec("region", DType.BYTES),
        FeatureSpec("job", DType.BYTES, nullable=True),
    ),
    target=Target("paid", DType.BYTES),
    candidates=(),
    gates=Gates(metric_floor=0.5),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    join_key=JoinKey("customer", DType.BYTES),
    event_time=EventTime("seen", timezone="Europe/Berlin"),
)
"""Every type, missing values, a text key, and times without an offset."""

MIXED_HEADER = "customer,seen,income,ratio,children,accounts,owner,married,region,job,paid,note"


def mixed_lines(rows: int = 40) -> list[str]:
    """A sound source of `MIXED`, as lines; each customer is seen twice."""
    lines = [MIXED_HEADER]
    for n in range(rows):
        cells = (
            f"c-{n // 2}",
            f"2024-01-{n % 2 + 1:02d} 12:00:00",
            "" if n % 5 == 1 else f"{1000 + n / 8}",
            f"{n / 3:.3f}",
            "" if n % 7 == 1 else n % 4,
            2**60 + n,
            ("true", "false")[n % 2],
            ("", "true", "0")[n % 3],
            ("north", "NA", "süd")[n % 3],
            "" if n % 4 == 1 else f"job {n % 6}",
            ("yes", "no")[n // 2 % 2],
            "ignored",
        )
        lines.append(",".join(map(str, cells)))
    return lines


@dataclass(frozen=True, slots=True)
class FeatureOutcome:
    """What a run did: values by asset, checks by "asset.check", failures by asset."""

    values: dict[str, Any]
    checks: dict[str, dg.AssetCheckEvaluation]
    failures: dict[str, str]
    metadata: dict[str, Mapping[str, Any]]

    @property
    def success(self) -> bool:
        """Whether no step failed."""
        return not self.failures


@dataclass(slots=True)
class FeatureChain:
    """One state directory with a source file."""

    home: Path
    feast: FeastResource
    spec: ModelSpec
    instance: dg.DagsterInstance

    @property
    def source(self) -> Path:
        """The source file."""
        return self.home / "source.csv"

    @property
    def resource(self) -> SourceResource:
        """The resource that points to it."""
        return SourceResource(variables={"SOURCE_PATH": str(self.source)})

    @property
    def features_file(self) -> Path:
        """What the offline store reads."""
        return self.feast.data_dir / self.spec.model_name / "features.parquet"

    def run(self, *assets: str) -> FeatureOutcome:
        """Materialize these assets (default: both) with their checks, in this process."""
        keys = [dg.AssetKey([self.spec.model_name, one]) for one in assets or (FEATURES, ONLINE)]
        result = dg.materialize(
            [*feature_assets(self.spec), *feature_checks(self.spec)],
            selection=dg.AssetSelection.assets(*keys),
            resources={
                "source": self.resource,
                "feast": self.feast,
                "io_manager": dg.FilesystemIOManager(base_dir=str(self.home / "values")),
            },
            instance=self.instance,
            raise_on_error=False,
        )
        return _outcome(result, f"{self.spec.model_name}__")

    def online(self, entity: int | str) -> list[Any]:
        """What the online store has of an entity, in the order of the features."""
        [row] = self.feast.online(self.spec.feature_view).read([entity])
        return [row.values.get(name) for name in self.spec.feature_names]


def feature_chain(home: Path, *, redis: str = "", spec: ModelSpec = IRIS) -> FeatureChain:
    """Return a chain on a fresh state directory, with a sound source."""
    home.mkdir(parents=True, exist_ok=True)
    chain = FeatureChain(
        home=home,
        feast=FeastResource(
            state_dir=str(home / "feast"), online_store="redis" if redis else "sqlite", redis=redis
        ),
        spec=spec,
        instance=dg.DagsterInstance.ephemeral(),
    )
    if spec.model_name == MIXED.model_name:
        chain.source.write_text("\n".join(mixed_lines()) + "\n", encoding="utf-8")
    else:
        write_iris_source(chain.source)
    return chain


def _outcome(result: dg.ExecuteInProcessResult, prefix: str) -> FeatureOutcome:
    values: dict[str, Any] = {}
    metadata: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            name = made.asset_key.path[-1]
            values[name] = result.output_for_node(f"{prefix}{name}")
            metadata[name] = made.metadata
        if event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data and data.user_failure_data.description
            failures[str(event.step_key).removeprefix(prefix)] = said or data.error_display_string
    checks = {
        f"{one.asset_key.path[-1]}.{one.check_name}": one
        for one in result.get_asset_check_evaluations()
    }
    return FeatureOutcome(values, checks, failures, metadata)
