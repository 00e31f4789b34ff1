"""The folder of drift reports."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from platform_assets.resources.atomic_files import replace_file
from serving_gateway.contract import check_model_name


class DriftReports(dg.ConfigurableResource[None]):
    """A page per Dagster run, `<root>/<model_name>/<run_id>.html`, until maintenance deletes it."""

    root: str = Field(description="Folder that holds the reports.")

    def write(self, model_name: str, run_id: str, page: str) -> Path:
        """Write the report of a run; return its path."""
        folder = Path(self.root).expanduser().absolute() / check_model_name(model_name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{run_id}.html"
        replace_file(path, page.encode())
        return path
