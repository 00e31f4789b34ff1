"""The folder of evidence of promotions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import Field

from platform_assets.resources.atomic_files import replace_file

_LATEST: Final = "latest"


class ProofFolder(dg.ConfigurableResource[None]):
    """By model: one folder per Dagster run, and `latest`, which points at the newest."""

    root: str = Field(description="Folder that holds the proofs.")

    def write(self, model_name: str, run_id: str, files: Mapping[str, str]) -> Path:
        """Write the files of a run, then let `latest` point at them; return their folder."""
        home = Path(self.root) / model_name
        folder = home / run_id
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            replace_file(folder / name, text.encode())
        link = home / f".{_LATEST}-{uuid.uuid4().hex}"
        link.symlink_to(run_id)
        link.replace(home / _LATEST)
        return folder
