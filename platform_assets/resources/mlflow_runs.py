"""What can be logged to an open MLflow run."""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from platform_assets.resources.mlflow_client import RegistryError, translated, wait_out
from serving_gateway.contract import DType, Signature

MODEL_URI_TAG: Final = "serving.model_uri"
"""Tag of a run: where the scikit-learn model that it kept is."""

_MLFLOW_TYPES: Final = {
    DType.FP32: "float",
    DType.FP64: "double",
    DType.INT64: "long",
    DType.BOOL: "boolean",
    DType.BYTES: "string",
}


@dataclass(frozen=True, slots=True)
class RunLog:
    """An MLflow run that is open; what is logged through it belongs to that run.

    Every method waits `patience_s` seconds for a server that is away, then raises
    `MlflowUnavailable`; `RegistryError`, its root, for any refusal.
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
    ) -> None:
        """Log parameters (as text), metrics (at step 0) and tags in one call."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        batch = {
            "params": [Param(key, str(value)) for key, value in (params or {}).items()],
            "metrics": [Metric(k, float(value), now, 0) for k, value in (metrics or {}).items()],
            "tags": [RunTag(key, value) for key, value in (tags or {}).items()],
        }
        self._call("log to", lambda: self._client.log_batch(self.run_id, **batch))

    def artifact(self, path: str, data: bytes) -> None:
        """Store `data` as the run's artifact `path` (with forward slashes)."""
        wait_out(lambda: store_artifact(self._client, self.run_id, path, data), self.patience_s)

    def sklearn_model(self, estimator: Any, name: str, signature: Signature) -> str:
        """Keep a fitted estimator as a logged model of this run.

        Stored in the skops format, which loads without unpickling. The requirements are given,
        because inferring them would start a process that imports everything again.

        Returns:
            The model's address, `models:/m-...`; the run's `MODEL_URI_TAG` has it too.
        """
        from mlflow.entities import LoggedModelOutput

        client, doing = self._client, "keep the model of"
        logged = self._call(
            doing,
            lambda: client.create_logged_model(
                self.experiment_id, name=name, source_run_id=self.run_id, model_type="sklearn"
            ),
        )
        model_id = logged.model_id
        try:
            with tempfile.TemporaryDirectory() as directory:
                target = Path(directory) / "model"
                _save_sklearn(estimator, target, signature, self.run_id, logged)
                self._call(doing, lambda: client.log_model_artifacts(model_id, str(target)))
        except BaseException:
            with suppress(RegistryError), translated(f"{doing} run {self.run_id}"):
                client.finalize_logged_model(model_id, "FAILED")
            raise
        self._call(doing, lambda: client.finalize_logged_model(model_id, "READY"))
        outputs = [LoggedModelOutput(model_id, 0)]
        self._call(doing, lambda: client.log_outputs(self.run_id, outputs))
        uri = f"models:/{model_id}"
        self.record(tags={MODEL_URI_TAG: uri})
        return uri

    def _call(self, doing: str, call: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            with translated(f"{doing} run {self.run_id}"):
                return call()

        return wait_out(attempt, self.patience_s)


def store_artifact(client: Any, run_id: str, path: str, data: bytes) -> None:
    """Store `data` as a run's artifact `path`, relative and with forward slashes.

    Raises:
        RegistryError: the path leaves the run's artifacts, or MLflow did not take it.
    """
    target = PurePosixPath(path)
    if target.is_absolute() or ".." in target.parts or not target.name:
        raise RegistryError(f"artifact path {path!r} is not a relative path below the run")
    folder = None if len(target.parts) == 1 else str(target.parent)
    with translated(f"store {path} with run {run_id}"), tempfile.TemporaryDirectory() as directory:
        staged = Path(directory) / target.name
        staged.write_bytes(data)
        client.log_artifact(run_id, str(staged), folder)


def _save_sklearn(
    estimator: Any, target: Path, signature: Signature, run_id: str, logged: Any
) -> None:
    from mlflow.models import Model
    from mlflow.sklearn import save_model

    with warnings.catch_warnings():
        # MLflow warns about type hints of its own, once, where nobody can do anything about it.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        import mlflow.pyfunc  # noqa: F401
    described = Model(
        artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
    )
    save_model(
        estimator,
        str(target),
        mlflow_model=described,
        serialization_format="skops",
        skops_trusted_types=_own_types(estimator),
        signature=_mlflow_signature(signature),
        pip_requirements=[
            f"{name}=={importlib.metadata.version(name)}"
            for name in ("scikit-learn", "skops", "numpy", "pandas")
        ],
    )


def _own_types(estimator: Any) -> list[str]:
    # We made the estimator a moment ago, out of scikit-learn's, NumPy's and perhaps the user's
    # own parts, so all its types are trusted. A reader of the file decides for himself.
    import skops.io  # type: ignore[import-untyped] # ships no stubs

    return list(skops.io.get_untrusted_types(data=skops.io.dumps(estimator)))


def _mlflow_signature(signature: Signature) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(_MLFLOW_TYPES[f.tensor_dtype], f.name) for f in signature.features
    ]
    answer = "double"
    if signature.classes:
        answer = "string" if isinstance(signature.classes[0], str) else "long"
    return ModelSignature(
        inputs=Schema(inputs), outputs=Schema([ColSpec(answer, signature.label_output)])
    )
