"""A version's record in MLflow's tags, and the graphs of versions from third-party jobs.

Only files that end in `.onnx` are ever fetched from the latter, as bytes (I11): neither a pickled
model nor any other file is opened.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from platform_assets.resources.mlflow_client import (
    RegistryError,
    artifact_repository,
    translate_mlflow_errors,
)
from platform_assets.resources.records import RegisteredVersion, SplitRecord, TrainedModel
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    RUN_ID_TAG,
    SIGNATURE_DIGEST_TAG,
    Signature,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SPLIT_TAG: Final = "serving.split"
"""Tag of a version: which rows its training held out, as JSON."""
THRESHOLD_TAG: Final = "serving.threshold"
_GRAPH_SUFFIX: Final = ".onnx"
_MOST_FILES: Final = 2000


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version as listed by MLflow; `run_id` is "" when none is recorded."""

    version: int
    run_id: str
    tags: dict[str, str]


def training_tags(trained: TrainedModel) -> dict[str, str]:
    """Return the tags that describe how a version was trained."""
    return {
        RUN_ID_TAG: trained.run_id,
        DATA_FINGERPRINT_TAG: trained.data_fingerprint,
        CODE_VERSION_TAG: trained.code_version,
        DAGSTER_RUN_TAG: trained.dagster_run_id,
        SPLIT_TAG: msgspec.json.encode(trained.split).decode(),
        **({} if trained.threshold is None else {THRESHOLD_TAG: repr(trained.threshold)}),
        **{f"metric.{key}": f"{value:.6f}" for key, value in trained.metrics.items()},
    }


def registered_version(
    entry: ModelVersion, signature: Callable[[str, str], Signature]
) -> RegisteredVersion:
    """Return a version from its tags; `signature` reads one by run and digest.

    Raises:
        RegistryError: it was not registered by this pipeline, or its signature cannot be read.
    """
    tags, run_id = entry.tags, str(entry.run_id)
    name, version = str(entry.name), int(entry.version)
    try:
        signature_ = signature(run_id, tags[SIGNATURE_DIGEST_TAG])
        fingerprint = tags[DATA_FINGERPRINT_TAG]
        split = SPLIT_TAG in tags and msgspec.json.decode(tags[SPLIT_TAG], type=SplitRecord)
    except (KeyError, msgspec.MsgspecError) as exc:
        raise RegistryError(
            f"version {version} of {name} carries no usable signature and "
            f"{DATA_FINGERPRINT_TAG} tags ({exc}): it was not registered by this pipeline; "
            "run the chain to register one that was"
        ) from exc
    return RegisteredVersion(
        name,
        version,
        run_id,
        fingerprint,
        signature_,
        code_version=tags.get(CODE_VERSION_TAG),
        dagster_run_id=tags.get(DAGSTER_RUN_TAG),
        split=split or None,
        threshold=float(tags[THRESHOLD_TAG]) if THRESHOLD_TAG in tags else None,
    )


def onnx_bytes(client: Any, model_name: str, version: int, copy: str) -> bytes:
    """Fetch the only ONNX file of a version, from its logged model or else from its run.

    `copy` is where the pipeline itself keeps a graph with a run: a file there is ignored beside
    another one.

    Raises:
        RegistryError: there is none, or more than one.
    """
    entry = client.get_model_version(model_name, str(version))
    model_id = getattr(entry, "model_id", None) or _model_id(str(entry.source or ""))
    if model_id:
        # By its location: an address of the form models:/m-... cannot refer to a file in it.
        location = client.get_logged_model(model_id).artifact_location
        return _only_graph(artifact_repository(location, client), f"logged model {model_id}", copy)
    if entry.run_id:
        run = artifact_repository(f"runs:/{entry.run_id}", client)
        return _only_graph(run, f"run {entry.run_id}", copy)
    raise RegistryError(
        f"version {version} of {model_name} names neither a run nor a logged model, so its graph "
        "cannot be found: register it with its run"
    )


def _model_id(source: str) -> str | None:
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def _only_graph(store: Any, where: str, copy: str) -> bytes:
    with translate_mlflow_errors(f"look for the graph of {where}"):
        paths = _graphs(store)
        graphs = [path for path in paths if path != copy] or paths
        if len(graphs) != 1:
            listed = ", ".join(sorted(graphs)) or "none"
            raise RegistryError(
                f"{where} must have exactly one file that ends in {_GRAPH_SUFFIX}, has: {listed}"
            )
        with tempfile.TemporaryDirectory() as directory:
            return Path(store.download_artifacts(graphs[0], directory)).read_bytes()


def _graphs(store: Any) -> list[str]:
    graphs: list[str] = []
    folders: list[str | None] = [None]
    count = 0
    while folders:
        for entry in store.list_artifacts(folders.pop()):
            count += 1
            if count > _MOST_FILES:
                raise RegistryError(f"it has more than {_MOST_FILES} artifacts")
            if entry.is_dir:
                folders.append(entry.path)
            elif entry.path.endswith(_GRAPH_SUFFIX):
                graphs.append(entry.path)
    return graphs
