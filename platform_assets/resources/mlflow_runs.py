"""Logging to an open MLflow run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from platform_assets.resources.mlflow_client import (
    RegistryError,
    retry_while_unavailable,
    translate_mlflow_errors,
)
from platform_assets.resources.mlflow_models import column_schema, save_sklearn
from serving_gateway.contract import Signature

if TYPE_CHECKING:
    import pandas as pd

MODEL_URI_TAG: Final = "serving.model_uri"
"""Tag of a run: the address of its scikit-learn model."""

_DIGEST_LENGTH: Final = 36
"""Characters of a dataset's digest that MLflow keeps."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows that a run reads, listed by MLflow among the run's inputs."""

    name: str
    context: str
    """Their purpose: `training` or `evaluation`."""
    source: str
    """Where they come from, for display."""
    fingerprint: str
    rows: int
    entities: int

    @property
    def digest(self) -> str:
        """The beginning of the fingerprint."""
        return self.fingerprint[:_DIGEST_LENGTH]


@dataclass(frozen=True, slots=True)
class RunLog:
    """An open MLflow run, through which is logged to it.

    Every method waits `patience_s` seconds for an unavailable server, then raises
    `MlflowUnavailable`; `RegistryError`, its base class, for any refusal.
    """

    run_id: str
    experiment_id: str
    _client: Any
    patience_s: float

    def record(
        self,
        *,
        params: Mapping[str, object] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        model_id: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        """Log parameters (as text), metrics (at step 0) and tags, each by name, in one call.

        Metrics belong to the logged model and to the dataset (of `log_datasets`), if given.
        """
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        of = {
            "model_id": model_id,
            "dataset_name": dataset.name if dataset else None,
            "dataset_digest": dataset.digest if dataset else None,
        }
        batch = {
            "params": [Param(key, str(value)) for key, value in (params or {}).items()],
            "metrics": [Metric(k, float(v), now, 0, **of) for k, v in (metrics or {}).items()],
            "tags": [RunTag(key, value) for key, value in (tags or {}).items()],
        }
        self._call("log to", lambda: self._client.log_batch(self.run_id, **batch))

    def log_datasets(self, datasets: Sequence[Dataset], signature: Signature) -> None:
        """Record which rows the run reads; `signature` describes their columns."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        schema = json.dumps({"mlflow_colspec": column_schema(signature).to_dict()})
        inputs = [
            DatasetInput(
                Entity(
                    dataset.name,
                    dataset.digest,
                    source_type="code",
                    source=json.dumps({"tags": {"mlflow.source.name": dataset.source}}),
                    schema=schema,
                    profile=json.dumps(
                        {"num_rows": dataset.rows, "num_entities": dataset.entities}
                    ),
                ),
                [InputTag("mlflow.data.context", dataset.context)],
            )
            for dataset in datasets
        ]
        self._call("log datasets to", lambda: self._client.log_inputs(self.run_id, inputs))

    def artifact(self, path: str, data: bytes) -> None:
        """Store `data` as the run's artifact `path` (with forward slashes)."""
        retry_while_unavailable(
            lambda: store_artifact(self._client, self.run_id, path, data), self.patience_s
        )

    def sklearn_model(
        self,
        estimator: Any,
        name: str,
        signature: Signature,
        *,
        params: Mapping[str, object] | None = None,
        example: pd.DataFrame | None = None,
    ) -> str:
        """Store a fitted estimator as a logged model of this run, named by the tag `MODEL_URI_TAG`.

        The skops format loads without unpickling; `example` are a few rows. Returns the id; the
        model's address is `models:/<id>`.
        """
        from mlflow.entities import LoggedModelOutput

        client, doing = self._client, "keep the model of"
        logged = self._call(
            doing,
            lambda: client.create_logged_model(
                self.experiment_id,
                name=name,
                source_run_id=self.run_id,
                model_type="sklearn",
                params={key: str(value) for key, value in (params or {}).items()},
            ),
        )
        model_id = str(logged.model_id)
        try:
            with tempfile.TemporaryDirectory() as directory:
                target = Path(directory) / "model"
                save_sklearn(estimator, target, logged, signature, example)
                self._call(doing, lambda: client.log_model_artifacts(model_id, str(target)))
        except BaseException:
            with suppress(RegistryError), translate_mlflow_errors(f"{doing} run {self.run_id}"):
                client.finalize_logged_model(model_id, "FAILED")
            raise
        self._call(doing, lambda: client.finalize_logged_model(model_id, "READY"))
        outputs = [LoggedModelOutput(model_id, 0)]
        self._call(doing, lambda: client.log_outputs(self.run_id, outputs))
        self.record(tags={MODEL_URI_TAG: f"models:/{model_id}"})
        return model_id

    def _call(self, doing: str, call: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            with translate_mlflow_errors(f"{doing} run {self.run_id}"):
                return call()

        return retry_while_unavailable(attempt, self.patience_s)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run as MLflow lists it."""

    run_id: str
    parent_id: str | None
    """The training run that this one belongs to."""
    model_id: str | None
    """The logged model that it made."""

    @classmethod
    def of(cls, run: Any) -> RunEntry:
        """Return the entry of MLflow's own `Run`."""
        tags = run.data.tags
        model_id = tags.get(MODEL_URI_TAG, "").removeprefix("models:/") or None
        return cls(str(run.info.run_id), tags.get("mlflow.parentRunId"), model_id)


def store_artifact(client: Any, run_id: str, path: str, data: bytes) -> None:
    """Store `data` as a run's artifact `path`, relative and with forward slashes.

    Raises:
        RegistryError: the path leaves the run's artifacts, or MLflow rejected it.
    """
    target = PurePosixPath(path)
    if target.is_absolute() or ".." in target.parts or not target.name:
        raise RegistryError(f"artifact path {path!r} is not a relative path below the run")
    folder = None if len(target.parts) == 1 else str(target.parent)
    with (
        translate_mlflow_errors(f"store {path} with run {run_id}"),
        tempfile.TemporaryDirectory() as directory,
    ):
        staged = Path(directory) / target.name
        staged.write_bytes(data)
        client.log_artifact(run_id, str(staged), folder)
