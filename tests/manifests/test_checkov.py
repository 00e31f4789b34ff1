"""checkov finds nothing in the rendered overlays but what is excused by name and reason."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import yaml

from tests.manifests.mutations import SEEN_BY_CHECKOV
from tests.manifests.rendering import OVERLAYS, Manifests, rendered
from tests.support.servers import ROOT

CHECKOV: Final = Path(os.environ.get("CHECKOV_ENV") or ROOT / ".venv-checkov") / "bin" / "checkov"
EXCEPTIONS: Final = Path(__file__).with_name("checkov_exceptions.yaml")


def test_checkov_finds_what_is_excused_and_nothing_else(
    tmp_path: Path, production: Manifests
) -> None:
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(rendered(f"overlays/{overlay}"))
    for number, mutation in enumerate(SEEN_BY_CHECKOV):
        broken = mutation.apply(production).get(mutation.target)
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(broken))
    excused = set()
    for one in yaml.safe_load(EXCEPTIONS.read_text()):
        assert len(one["reason"]) > 40, one
        excused |= {(one["check"], name) for name in one["objects"]}
    found = _found(tmp_path)
    assert set().union(*(found[overlay] for overlay in OVERLAYS)) == excused
    for number, mutation in enumerate(SEEN_BY_CHECKOV):
        assert mutation.seen_by in {check for check, _ in found[str(number)]}, mutation


def _found(folder: Path) -> dict[str, set[tuple[str, str]]]:
    """What checkov finds, as (check, object), by the name of the file."""
    assert CHECKOV.is_file(), f"{CHECKOV} is not there: make {CHECKOV.parts[-3]}/.run installs it"
    options = ["--framework", "kubernetes", "--skip-download", "--quiet", "--compact", "-o", "json"]
    done = subprocess.run(
        [CHECKOV, "-d", folder, *options], check=False, capture_output=True, text=True, cwd=folder
    )
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for one in report["results"]["failed_checks"]:
        found[Path(one["file_path"]).stem].add((one["check_id"], one["resource"]))
    return found
