"""Where the raw data comes from."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field


class SourceResource(ConfigurableResource["SourceResource"]):
    """The one CSV file that the chain starts from."""

    path: str = Field(description="Path of the source file (CSV, UTF-8, with a header line).")

    @property
    def file(self) -> Path:
        """The file, absolute."""
        return Path(self.path).expanduser().absolute()
