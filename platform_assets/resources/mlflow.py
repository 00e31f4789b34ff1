"""MLflow as the pipeline uses it, for runs, artifacts and versions. It records; it never decides.

No method here opens a pickled model (I11): only bytes found by path are published.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from dagster import ConfigurableResource
from pydantic import Field, PrivateAttr

from platform_assets.resources.evaluation import EVALUATION_ARTIFACT, read_evaluation
from platform_assets.resources.mlflow_client import (
    PATIENCE,
    MlflowUnavailable,
    RegistryError,
    RegistryNotFound,
    artifact_repository,
    fetch_all_pages,
    ignore_existing,
    open_client,
    probe,
    retry_while_unavailable,
    translate_mlflow_errors,
)
from platform_assets.resources.mlflow_models import add_onnx_flavor
from platform_assets.resources.mlflow_runs import MODEL_URI_TAG, RunEntry, RunLog, store_artifact
from platform_assets.resources.mlflow_versions import (
    VersionEntry,
    onnx_bytes,
    registered_version,
    training_tags,
)
from platform_assets.resources.records import (
    EvaluationSet,
    RegisteredVersion,
    TrainedModel,
)
from serving_gateway.contract import (
    DAGSTER_RUN_TAG,
    SIGNATURE_ARTIFACT,
    SIGNATURE_DIGEST_TAG,
    Signature,
)

__all__ = ["MlflowResource", "MlflowUnavailable", "RegistryError", "RegistryNotFound", "RunLog"]

PRODUCTION_ALIAS: Final = "production"
MODEL_TAG: Final = "serving.model_name"


class MlflowResource(ConfigurableResource["MlflowResource"]):
    """Typed access to one MLflow server.

    Every method raises `MlflowUnavailable` when the server does not answer (within about ten
    seconds, not minutes; only calls of an open run wait longer), `RegistryNotFound` for unknown
    objects, and `RegistryError`, the base class of both, for any other refusal.
    """

    tracking_uri: str = Field(description="Address of the MLflow server, as steps reach it.")
    ui_url: str = Field(default="", description="Address for people's browsers; default: same.")
    patience_s: float = Field(
        default=PATIENCE, ge=0, description="Seconds that an open run waits for a server away."
    )

    _opened: Any = PrivateAttr(default=None)
    _signatures: dict[str, Signature] = PrivateAttr(default_factory=dict)
    _evaluation: tuple[str, EvaluationSet] | None = PrivateAttr(default=None)

    @contextmanager
    def _client_to(self, doing: str) -> Iterator[Any]:
        """Yield MLflow's client for the call `doing`; its errors are translated."""
        # Probed each time: this detects a server that is down within seconds, whereas the client
        # would retry a call for minutes.
        probe(self.tracking_uri)
        if self._opened is None:
            self._opened = open_client(self.tracking_uri)
        with translate_mlflow_errors(doing):
            yield self._opened

    # Runs

    @contextmanager
    def run(
        self,
        model_name: str,
        name: str,
        *,
        parent: RunLog | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[RunLog]:
        """Open a run and close it as FINISHED, or as FAILED when the block raises anything."""
        all_tags = dict(tags or {})
        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent.run_id
        log = retry_while_unavailable(
            lambda: self._open_run(model_name, name, all_tags), self.patience_s
        )
        try:
            yield log
        except BaseException:
            # If MLflow itself is down this cannot work; the error being raised is the one to
            # show, and `close_abandoned_runs` of the next attempt marks the run.
            with suppress(RegistryError):
                self._close_run(log.run_id, "FAILED")
            raise
        retry_while_unavailable(lambda: self._close_run(log.run_id, "FINISHED"), self.patience_s)

    def _open_run(self, model_name: str, name: str, tags: Mapping[str, str]) -> RunLog:
        experiment_id = self._experiment_id(model_name)
        with self._client_to(f"start run {name}") as client:
            run = client.create_run(experiment_id, run_name=name, tags=tags)
        return RunLog(run.info.run_id, run.info.experiment_id, client, self.patience_s)

    def _close_run(self, run_id: str, status: str) -> None:
        with self._client_to(f"mark run {run_id} as {status}") as client:
            client.set_terminated(run_id, status)

    def owner_tags(self, model_name: str, dagster_run_id: str) -> dict[str, str]:
        """Return the tags with the owner of a run, which `close_abandoned_runs` uses."""
        return {MODEL_TAG: model_name, DAGSTER_RUN_TAG: dagster_run_id}

    def close_abandoned_runs(
        self, model_name: str, is_abandoned: Callable[[str], bool]
    ) -> list[str]:
        """Mark as FAILED the runs that are still RUNNING although their Dagster run has ended.

        `is_abandoned` tells whether the Dagster run with an id has ended. Returns the ids of the
        marked MLflow runs.
        """
        experiment_id = self._experiment_id(model_name)
        with self._client_to(f"look for abandoned runs of {model_name}") as client:
            running = client.search_runs(
                [experiment_id],
                f"attributes.status = 'RUNNING' and tags.`{MODEL_TAG}` = '{model_name}'",
            )
            closed = []
            for run in running:
                owner = run.data.tags.get(DAGSTER_RUN_TAG)
                if owner is not None and is_abandoned(owner):
                    client.set_terminated(run.info.run_id, "FAILED")
                    closed.append(run.info.run_id)
        return closed

    def _experiment_id(self, model_name: str) -> str:
        with self._client_to(f"open experiment {model_name}") as client:
            if client.get_experiment_by_name(model_name) is None:
                with ignore_existing():
                    client.create_experiment(model_name)
            experiment = client.get_experiment_by_name(model_name)
            if experiment.lifecycle_stage == "deleted":
                raise RegistryError(
                    f"MLflow experiment {model_name} was deleted: restore it in MLflow"
                )
        return str(experiment.experiment_id)

    def run_tags(self, run_id: str) -> dict[str, str]:
        """Return all tags of a run."""
        with self._client_to(f"look up run {run_id}") as client:
            return dict(client.get_run(run_id).data.tags)

    def runs_before(self, model_name: str, before: datetime) -> list[RunEntry]:
        """Return the runs of a model's trainings that began before an aware time."""
        began = f"attributes.start_time < {int(before.timestamp() * 1000)}"
        wanted = f"{began} and tags.`{MODEL_TAG}` = '{model_name}'"
        with self._client_to(f"list the runs of {model_name}") as client:
            experiment = client.get_experiment_by_name(model_name)
            if experiment is None:
                return []
            ids = [str(experiment.experiment_id)]
            runs = fetch_all_pages(lambda token: client.search_runs(ids, wanted, page_token=token))
        return [RunEntry.of(run) for run in runs]

    def delete_run(self, run: RunEntry) -> None:
        """Mark a run and its logged model as deleted; `mlflow gc` then removes their content."""
        with self._client_to(f"delete run {run.run_id}") as client:
            # The run last: if the deletion is interrupted, it is found again.
            if run.model_id is not None:
                with (
                    suppress(RegistryNotFound),
                    translate_mlflow_errors(f"delete model {run.model_id}"),
                ):
                    client.delete_logged_model(run.model_id)
            client.delete_run(run.run_id)

    # Artifacts

    def log_artifact_bytes(self, run_id: str, path: str, data: bytes) -> None:
        """Store `data` as the run's artifact `path` (with forward slashes)."""
        if path == EVALUATION_ARTIFACT:
            self._evaluation = None
        with self._client_to(f"store {path} with run {run_id}") as client:
            store_artifact(client, run_id, path, data)

    def artifact_bytes(self, run_id: str, path: str) -> bytes:
        """Return the uninterpreted bytes of the run's artifact `path`."""
        with (
            self._client_to(f"fetch {path} of run {run_id}") as client,
            tempfile.TemporaryDirectory() as directory,
        ):
            fetched = Path(client.download_artifacts(run_id, path, directory))
            if not fetched.is_file():
                raise RegistryNotFound(f"MLflow has no file {path} with run {run_id}")
            return fetched.read_bytes()

    def evaluation_set(self, run_id: str) -> EvaluationSet:
        """Return the held-out rows of a run and scikit-learn's answers to them.

        Those of the last run are cached: most checks of a chain need the same ones.
        """
        if self._evaluation is None or self._evaluation[0] != run_id:
            data = self.artifact_bytes(run_id, EVALUATION_ARTIFACT)
            try:
                self._evaluation = (run_id, read_evaluation(data))
            except (ValueError, KeyError, OSError) as exc:
                raise RegistryError(
                    f"{EVALUATION_ARTIFACT} of run {run_id} is no evaluation set ({exc}): train "
                    "again"
                ) from exc
        return self._evaluation[1]

    # Versions

    def register(
        self, trained: TrainedModel, *, description: str = "", model_description: str = ""
    ) -> RegisteredVersion:
        """Return the version of a training's run, registering it unless it already exists.

        Tags are part of the creating call, so no version ever exists without them. The registered
        model is created, with `model_description`, before its first version.
        """
        model_name, run_id = trained.model_name, trained.run_id
        existing = self.version_of_run(model_name, run_id)
        if existing is not None:
            return existing
        source = self._model_uri(run_id)
        with (
            self._client_to(f"create the registered model {model_name}") as client,
            ignore_existing(),
        ):
            client.create_registered_model(model_name, description=model_description)
        tags = training_tags(trained) | self.record_signature(run_id, trained.signature)
        with self._client_to(f"register a version of {model_name} for run {run_id}") as client:
            created = client.create_model_version(
                model_name,
                source,
                run_id=run_id,
                tags=tags,
                description=description,
                model_id=source.removeprefix("models:/"),
            )
        return registered_version(created, self._signature)

    def add_onnx_model(self, run_id: str, graph: bytes) -> None:
        """Add a graph to the logged model of a run.

        `mlflow.onnx.load_model("models:/<name>/<version>")` then reads it by its version.
        """
        model_id = self._model_uri(run_id).removeprefix("models:/")
        with (
            self._client_to(f"add the graph to logged model {model_id}") as client,
            tempfile.TemporaryDirectory() as directory,
        ):
            logged = artifact_repository(
                client.get_logged_model(model_id).artifact_location, client
            )
            added = Path(directory) / "added"
            added.mkdir()
            add_onnx_flavor(Path(logged.download_artifacts("MLmodel", directory)), graph, added)
            client.log_model_artifacts(model_id, str(added))

    def record_signature(self, run_id: str, signature: Signature) -> dict[str, str]:
        """Store a signature with a run (a tag is too short); return the tags that refer to it."""
        data = msgspec.json.encode(signature)
        self.log_artifact_bytes(run_id, SIGNATURE_ARTIFACT, data)
        return {SIGNATURE_DIGEST_TAG: hashlib.sha256(data).hexdigest()}

    def _model_uri(self, run_id: str) -> str:
        uri = self.run_tags(run_id).get(MODEL_URI_TAG)
        if uri is None:
            raise RegistryNotFound(
                f"run {run_id} has no {MODEL_URI_TAG} tag, so it kept no model: train again"
            )
        return uri

    def version_of_run(self, model_name: str, run_id: str) -> RegisteredVersion | None:
        """Return the lowest version registered for a run, or None."""
        with self._client_to(f"look for the version of run {run_id}") as client:
            versions = client.search_model_versions(
                f"name = '{model_name}' and run_id = '{run_id}'"
            )
        if not versions:
            return None
        return registered_version(
            min(versions, key=lambda version: int(version.version)), self._signature
        )

    def version(self, model_name: str, version: int) -> RegisteredVersion:
        """Return MLflow's current record of a version."""
        with self._client_to(f"look up version {version} of {model_name}") as client:
            entry = client.get_model_version(model_name, str(version))
        return registered_version(entry, self._signature)

    def versions(self, model_name: str) -> list[VersionEntry]:
        """Return all versions of a model, also third-party ones, oldest first."""
        with self._client_to(f"list the versions of {model_name}") as client:
            wanted = f"name = '{model_name}'"
            found = fetch_all_pages(
                lambda token: client.search_model_versions(wanted, page_token=token)
            )
        entries = [VersionEntry(int(v.version), str(v.run_id or ""), dict(v.tags)) for v in found]
        return sorted(entries, key=lambda entry: entry.version)

    def onnx_bytes(self, model_name: str, version: int, copy: str) -> bytes:
        """Return the ONNX graph of a registered version; see `mlflow_versions`."""
        with self._client_to(f"look up version {version} of {model_name}") as client:
            return onnx_bytes(client, model_name, version, copy)

    def set_version_tags(self, model_name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version; other tags stay."""
        with self._client_to(f"tag version {version} of {model_name}") as client:
            for key, value in tags.items():
                client.set_model_version_tag(model_name, str(version), key, value)

    def version_tags(self, model_name: str, version: int) -> dict[str, str]:
        """Return all tags of a version."""
        with self._client_to(f"look up version {version} of {model_name}") as client:
            return dict(client.get_model_version(model_name, str(version)).tags)

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Point an alias at a version. For information only: it does not affect serving."""
        with self._client_to(f"point alias {alias} of {model_name} at version {version}") as client:
            client.set_registered_model_alias(model_name, alias, str(version))

    def aliases(self, model_name: str) -> dict[str, int]:
        """Return the version that each alias points at."""
        with (
            suppress(RegistryNotFound),
            self._client_to(f"look up the aliases of {model_name}") as client,
        ):
            aliases = client.get_registered_model(model_name).aliases
            return {alias: int(version) for alias, version in aliases.items()}
        return {}

    def alias_version(self, model_name: str, alias: str) -> int | None:
        """Return the version that an alias points at, or None."""
        return self.aliases(model_name).get(alias)

    def _signature(self, run_id: str, digest: str) -> Signature:
        """Return the signature stored with a run, cached by its digest."""
        if digest not in self._signatures:
            data = self.artifact_bytes(run_id, SIGNATURE_ARTIFACT)
            if hashlib.sha256(data).hexdigest() != digest:
                raise RegistryError(
                    f"{SIGNATURE_ARTIFACT} of run {run_id} is not what its version was "
                    "registered with: train again"
                )
            self._signatures[digest] = msgspec.json.decode(data, type=Signature)
        return self._signatures[digest]

    # Pages of the UI

    def run_url(self, run_id: str) -> str:
        """Address of a run's page."""
        return f"{self._pages()}/#/runs/{quote(run_id, safe='')}"

    def version_url(self, model_name: str, version: int) -> str:
        """Address of a version's page."""
        return f"{self._pages()}/#/models/{quote(model_name, safe='')}/versions/{version}"

    def _pages(self) -> str:
        return (self.ui_url or self.tracking_uri).rstrip("/")
