"""The wheel in a Dagster project of another team, by the commands of the page."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import pages, tables
from tests.support.servers import ROOT

PAGE = "platform_assets/components/README.md"
UV = Path(sys.executable).with_name("uv")
PROJECT = {
    "pyproject.toml": """\
[project]
name = "shop"
version = "1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "shop"
""",
    "src/shop/__init__.py": "",
    "src/shop/definitions.py": """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
    "src/shop/defs/__init__.py": "",
    "src/shop/defs/sales.py": """\
import dagster as dg


@dg.asset
def sales() -> None: ...
""",
}


@dataclass(frozen=True)
class Project:
    """A Dagster project with an environment of its own, in which the locked packages are."""

    folder: Path
    wheel: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the page; packages come from the locked environment."""
        command = command.replace("uv pip install", f"{UV} pip install --offline --no-deps")
        command = re.sub(r"[\w.-]+\.whl", str(self.wheel), command)
        environment = self.folder / ".venv"
        return subprocess.run(
            shlex.split(command),
            env={
                **os.environ,
                "VIRTUAL_ENV": str(environment),
                "PATH": f"{environment}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(self.folder / "src"),
                "DAGSTER_HOME": "",
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("platform_assets", "serving_gateway"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [UV, "build", "--wheel", "--no-build-isolation", "--offline", "--quiet",
         "--python", sys.executable, "--out-dir", built, source],
        check=True,
    )  # fmt: skip
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Project:
    folder = tmp_path_factory.mktemp("shop")
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib"))
    dg = environment / "bin" / "dg"
    dg.write_text(f"#!{environment}/bin/python\nfrom dagster_dg_cli.cli import main\nmain()\n")
    dg.chmod(0o755)
    tables.patients(folder)
    return Project(folder, wheel)


def page_commands() -> list[str]:
    (block,) = (one for one in pages.blocks(PAGE, "sh") if "dg scaffold defs" in one.text)
    return block.text.splitlines()


@pytest.mark.timeout(600)
def test_four_commands_bring_a_model_into_a_project(project: Project) -> None:
    commands = page_commands()
    assert len(commands) == 4

    for command in commands:
        done = project.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    listed = project.run("dg list defs --json")
    assets = {one["asset_key"] for one in json.loads(listed.stdout)["assets"]}
    assert {"sales", "patients/features", "patients/gateway_reload"} <= assets
    file = project.folder / "src/shop/defs/patients/defs.yaml"
    assert "metric_floor" in file.read_text()
    used = project.run("python -c 'import platform_assets; print(platform_assets.__file__)'")
    assert used.stdout.startswith(str(project.folder)), "not the wheel was used"


@pytest.mark.timeout(600)
def test_dg_refuses_as_make_model_does_and_leaves_no_folder(project: Project) -> None:
    assert project.run(page_commands()[0]).returncode == 0

    done = project.run(
        "dg scaffold defs platform_assets.components.TabularModel other "
        "--csv patients.csv --target readmited"
    )

    assert done.returncode == 1
    assert "no model file was made: patients.csv has no column 'readmited'" in done.stderr
    assert not (project.folder / "src/shop/defs/other").exists()
