"""The folders with the output of runs: proofs, drift reports, batch predictions."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.resources.atomic_files import remove_abandoned, replace_file
from serving_gateway.contract import check_model_name

_LATEST: Final = "latest"


class ModelFolders(dg.ConfigurableResource[None]):
    """A folder for each model below a root, `<root>/<model_name>`."""

    root: str

    def folder(self, model_name: str) -> Path:
        """Return the folder of a model, which may not exist."""
        return Path(self.root).expanduser().absolute() / check_model_name(model_name)


class ProofFolder(ModelFolders):
    """By model: one folder per Dagster run, and `latest`, a link to the newest."""

    root: str = Field(description="Folder that holds the proofs.")

    def write(self, model_name: str, run_id: str, files: Mapping[str, str]) -> Path:
        """Write the files of a run, then point `latest` at them; return their folder."""
        home = self.folder(model_name)
        folder = home / run_id
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(folder / name, text.encode())
        link = home / f".{_LATEST}-{uuid.uuid4().hex}"
        link.symlink_to(run_id)
        link.replace(home / _LATEST)
        return folder


class DriftReports(ModelFolders):
    """A page per Dagster run, `<root>/<model_name>/<run_id>.html`, until maintenance deletes it."""

    root: str = Field(description="Folder that holds the reports.")

    def write(self, model_name: str, run_id: str, page: str) -> Path:
        """Write the report of a run; return its path."""
        folder = self.folder(model_name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{run_id}.html"
        replace_file(path, page.encode())
        return path


class PredictionsFolder(ModelFolders):
    """A file per run, `<root>/<model_name>/<time>-v<version>.parquet`, until maintenance."""

    root: str = Field(description="Folder that holds the predictions of all models.")

    def path(self, model_name: str, version: int, scored_at: datetime) -> Path:
        """Return where to write the predictions of a version's scoring that starts at this time."""
        return self.folder(model_name) / f"{scored_at:%Y%m%dT%H%M%SZ}-v{version}.parquet"

    @contextmanager
    def workspace(self, model_name: str) -> Iterator[Path]:
        """Make the folder of a model, and inside it a temporary one for the block."""
        folder = self.folder(model_name)
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder, ".*.part")
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as inside:
            yield Path(inside)
