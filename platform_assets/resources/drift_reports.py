"""The folder of drift reports."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from platform_assets.resources.atomic_files import replace_file
from serving_gateway.contract import check_model_name


class DriftReports(dg.ConfigurableResource[None]):
    """A page per Dagster run, `<root>/<model_name>/<run_id>.html`; the newest `keep` of them."""

    root: str = Field(description="Folder that holds the reports.")
    keep: int = Field(default=100, ge=1, description="Reports kept per model.")

    def write(self, model_name: str, run_id: str, page: str) -> Path:
        """Write the report of a run, and remove the oldest beyond `keep`; return its path."""
        folder = Path(self.root).expanduser().absolute() / check_model_name(model_name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{run_id}.html"
        replace_file(path, page.encode())
        dated = sorted(folder.glob("*.html"), key=lambda item: (item.stat().st_mtime_ns, item.name))
        for surplus in dated[: -self.keep]:
            surplus.unlink(missing_ok=True)
        return path
