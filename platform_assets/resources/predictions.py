"""The folder of batch predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from platform_assets.resources.atomic_files import remove_abandoned
from serving_gateway.contract import check_model_name


class PredictionsFolder(dg.ConfigurableResource[None]):
    """A file per run, `<root>/<model_name>/<time>-v<version>.parquet`, until maintenance."""

    root: str = Field(description="Folder that holds the predictions of all models.")

    def folder(self, model_name: str) -> Path:
        """Folder of a model's predictions, whether it is there or not."""
        return Path(self.root).expanduser().absolute() / check_model_name(model_name)

    def path(self, model_name: str, version: int, scored_at: datetime) -> Path:
        """Return where to write the predictions that a version makes from this time on."""
        return self.folder(model_name) / f"{scored_at:%Y%m%dT%H%M%SZ}-v{version}.parquet"

    @contextmanager
    def workspace(self, model_name: str) -> Iterator[Path]:
        """Make the folder of a model, and another inside it for what is needed until the end."""
        folder = self.folder(model_name)
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder, ".*.part")
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=folder) as inside:
            yield Path(inside)
