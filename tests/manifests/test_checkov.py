"""checkov finds nothing in the rendered overlays but what is excused by name and reason."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.manifests.rendering import OVERLAYS, rendered
from tests.servers import ROOT

CHECKOV: Final = Path(os.environ.get("CHECKOV_ENV") or ROOT / ".venv-checkov") / "bin" / "checkov"
EXCEPTIONS: Final = Path(__file__).with_name("checkov_exceptions.yaml")


def test_checkov_finds_what_is_excused_and_nothing_else(tmp_path: Path) -> None:
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(rendered(f"overlays/{overlay}"))
    excused = set()
    for one in yaml.safe_load(EXCEPTIONS.read_text()):
        assert len(one["reason"]) > 40, one
        excused |= {(one["check"], name) for name in one["objects"]}
    assert _found(tmp_path) == excused


def _found(folder: Path) -> set[tuple[str, str]]:
    assert CHECKOV.is_file(), f"{CHECKOV} is not there: make {CHECKOV.parts[-3]}/.run installs it"
    options = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "-o", "json"]
    done = subprocess.run(
        [CHECKOV, "-d", folder, *options], check=False, capture_output=True, text=True, cwd=folder
    )
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] > 0
    return {(one["check_id"], one["resource"]) for one in report["results"]["failed_checks"]}
