"""Finds versions that a third-party job may have registered, and fetches their graphs.

Only files that end in `.onnx` are ever fetched from them, as bytes (I11): a pickled model, or
any other file is not opened.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from platform_assets.resources.mlflow_client import RegistryError, all_pages, translated

_GRAPH_SUFFIX: Final = ".onnx"
_MOST_FILES: Final = 2000


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version as MLflow lists it; `run_id` is "" when none is recorded."""

    version: int
    run_id: str
    tags: dict[str, str]


def list_versions(client: Any, model_name: str) -> list[VersionEntry]:
    """Return all versions of a registered model, oldest first; none when it does not exist."""
    with translated(f"list the versions of {model_name}"):
        found = all_pages(
            lambda token: client.search_model_versions(f"name = '{model_name}'", page_token=token)
        )
    entries = [VersionEntry(int(v.version), str(v.run_id or ""), dict(v.tags)) for v in found]
    return sorted(entries, key=lambda entry: entry.version)


def onnx_bytes(client: Any, model_name: str, version: int, copy: str) -> bytes:
    """Fetch the one ONNX file of a version: of its logged model, or else of its run.

    `copy` is where the pipeline itself keeps a graph with a run: a file there does not count
    beside another one.

    Raises:
        RegistryError: there is none, or more than one.
    """
    with translated(f"look up version {version} of {model_name}"):
        found = client.get_model_version(model_name, str(version))
    model_id = getattr(found, "model_id", None) or _model_id(str(found.source or ""))
    if model_id:
        return _only_graph(_LoggedModel(client, model_id), f"logged model {model_id}", copy)
    if found.run_id:
        return _only_graph(_Run(client, str(found.run_id)), f"run {found.run_id}", copy)
    raise RegistryError(
        f"version {version} of {model_name} names neither a run nor a logged model, so its graph "
        "cannot be found: register it with its run"
    )


def _model_id(source: str) -> str | None:
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


class _Run:
    """The artifacts of a run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def listed(self, path: str | None) -> list[Any]:
        return list(self._client.list_artifacts(self._run_id, path))

    def fetched(self, path: str, directory: str) -> Path:
        return Path(self._client.download_artifacts(self._run_id, path, directory))


class _LoggedModel:
    """The artifacts of a logged model."""

    def __init__(self, client: Any, model_id: str) -> None:
        self._client = client
        self._model_id = model_id

    def listed(self, path: str | None) -> list[Any]:
        return list(self._client.list_logged_model_artifacts(self._model_id, path))

    def fetched(self, path: str, directory: str) -> Path:
        from mlflow.artifacts import download_artifacts

        # By its location: an address of the form models:/m-... cannot name a file in it.
        location = self._client.get_logged_model(self._model_id).artifact_location
        return Path(
            download_artifacts(
                artifact_uri=f"{location.rstrip('/')}/{path}",
                dst_path=directory,
                tracking_uri=self._client.tracking_uri,
            )
        )


def _only_graph(store: _Run | _LoggedModel, where: str, copy: str) -> bytes:
    with translated(f"look for the graph of {where}"):
        found = _graphs(store)
        graphs = [path for path in found if path != copy] or found
        if len(graphs) != 1:
            said = ", ".join(sorted(graphs)) or "none"
            raise RegistryError(
                f"{where} must have exactly one file that ends in {_GRAPH_SUFFIX}, has: {said}"
            )
        with tempfile.TemporaryDirectory() as directory:
            return store.fetched(graphs[0], directory).read_bytes()


def _graphs(store: _Run | _LoggedModel) -> list[str]:
    found: list[str] = []
    folders: list[str | None] = [None]
    seen = 0
    while folders:
        for entry in store.listed(folders.pop()):
            seen += 1
            if seen > _MOST_FILES:
                raise RegistryError(f"it has more than {_MOST_FILES} artifacts")
            if entry.is_dir:
                folders.append(entry.path)
            elif entry.path.endswith(_GRAPH_SUFFIX):
                found.append(entry.path)
    return found
