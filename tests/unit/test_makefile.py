"""What a person types behind `make` reaches the command as it was typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
HOSTILE = """a"; touch {0}; '`touch {0}`' $(touch {0}) $$x $(shell touch {0})"""


def run_make(folder: Path, *arguments: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the environment of the command that a target runs."""
    show = folder / "show.py"
    show.write_text(SHOW)
    shown = f"{sys.executable} {show}"
    command = ["make", "-s", "-o", ".venv/.run", f"STACK={shown}", f"RUN={shown}", *arguments]
    inherited = {name: one for name, one in os.environ.items() if name in {"PATH", "HOME"}}
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | environ, capture_output=True, text=True, check=True
    )
    options, environment = json.loads(done.stdout)
    return options, environment


@pytest.mark.parametrize("target", ["chain", "passport"])
def test_target_passes_a_name_as_it_was_typed(tmp_path: Path, target: str) -> None:
    name = HOSTILE.format(tmp_path / "ran")
    options, environ = run_make(tmp_path, target, f"MODEL={name}", f"VERSION={name}")
    assert options == [target]
    assert (environ["MODEL"], environ["VERSION"]) == (name, name)
    assert not (tmp_path / "ran").exists()


def test_arguments_are_passed_as_they_were_typed(tmp_path: Path) -> None:
    name = HOSTILE.format(tmp_path / "ran")
    options, _ = run_make(tmp_path, "erase", f"MODEL={name}", f"ENTITY={name}")
    assert options == ["platform_assets.prediction_log", "erase", "--", name, name]
    options, _ = run_make(tmp_path, "model", f"CSV={name}", f"TARGET={name}", f"KEY={name}")
    assert options == ["platform_assets.components", "new", name, "--target", name, "--key", name]
    assert not (tmp_path / "ran").exists()


def test_options_count_only_where_they_were_typed(tmp_path: Path) -> None:
    _, environ = run_make(tmp_path, "passport", "MODEL=cars", KEY="of others", VERIFY="1")
    assert not {"KEY", "VERIFY"} & environ.keys()
    _, environ = run_make(tmp_path, "passport", "MODEL=cars", "KEY=own.pem", "VERIFY=1")
    assert (environ["KEY"], environ["VERIFY"]) == ("own.pem", "1")
    options, _ = run_make(tmp_path, "model", "CSV=a.csv", "TARGET=b", TIME="of others")
    assert options == ["platform_assets.components", "new", "a.csv", "--target", "b"]
