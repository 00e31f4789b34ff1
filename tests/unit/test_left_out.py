"""What a run of the tests leaves out without root, and what it says of that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT

TESTS = """
import pytest

@pytest.fixture
def browser():
    pass

@pytest.fixture(params=["sqlite", "redis"])
def store(request):
    return request.param

@pytest.mark.needs("root")
def test_container(): pass

@pytest.mark.needs("root")
def test_another_container(): pass

def test_page(browser): pass

def test_store(store): pass

def test_plain(): pass
"""


def outcome(folder: Path, user: int, *options: str) -> str:
    """What pytest prints as that user, where no program is installed."""
    (folder / "test_them.py").write_text(TESTS)
    (folder / "sitecustomize.py").write_text(f"import os\nos.geteuid = lambda: {user}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.left_out", *options, str(folder)],
        env=os.environ
        | {
            "PATH": "/nowhere",
            "PYTHONPATH": f"{folder}:{ROOT}",
            "PYTEST_ADDOPTS": "",
            # Those of this environment take longer to import than these tests to run.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "options", [(), ("-p", "xdist", "-n", "2")], ids=["one process", "several"]
)
def test_without_root_one_line_says_what_was_left_out_and_why(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    said = outcome(tmp_path, 1000, *options)

    assert "2 passed" in said
    assert (
        "left out 4 tests without root: 1 need chromium, 1 need redis-server, 2 need root "
        "(sudo apt-get install chromium redis-server)"
    ) in said
    assert "are left out: chromium, haproxy, prometheus, redis-server, root\n" in said
    assert "skipped" not in said


def test_as_root_nothing_is_left_out(tmp_path: Path) -> None:
    said = outcome(tmp_path, 0)

    assert "6 passed" in said
    assert "left out" not in said
