"""Lock files: exact, hashed, without an address, and small because of what they leave out."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.support.servers import ROOT

PRUNE = runpy.run_path(str(ROOT / ".ci" / "prune_hashes.py"))
LOCKS = sorted(ROOT.glob("requirements*.lock.txt"))
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)", re.MULTILINE)


@pytest.mark.parametrize(
    ("wheel", "kept"),
    [
        ("onnx-1.0-py3-none-any.whl", True),
        ("six-1.0-py2.py3-none-any.whl", True),
        ("numpy-2.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", True),
        ("numpy-2.0-cp312-cp312-macosx_11_0_arm64.whl", True),
        ("psutil-7.0-cp36-abi3-manylinux2014_aarch64.whl", True),
        ("ruff-0.8-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("numpy-2.0-cp310-cp310-manylinux_2_28_x86_64.whl", False),
        ("numpy-2.0-cp313-cp313t-manylinux_2_28_x86_64.whl", False),
        ("numpy-2.0-cp312-cp312-musllinux_1_2_x86_64.whl", False),
        ("numpy-2.0-cp312-cp312-win_amd64.whl", False),
        ("numpy-2.0-cp312-cp312-macosx_14_0_x86_64.whl", False),
        ("numpy-2.0-pp311-pypy311_pp73-manylinux_2_28_x86_64.whl", False),
    ],
)
def test_hashes_are_kept_of_wheels_that_this_project_runs_on(wheel: str, kept: bool) -> None:
    assert PRUNE["is_installable"](wheel) is kept


def test_pruning_keeps_each_pin_and_the_continuation_of_lines() -> None:
    lock = (
        "# made\nnumpy==2.0 ; sys_platform == 'linux' \\\n"
        "    --hash=sha256:aa \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
        "six==1.0 \\\n    --hash=sha256:dd\n"
    )

    assert PRUNE["pruned"](lock, {"aa", "bb", "dd"}) == (
        "# made\nnumpy==2.0 ; sys_platform == 'linux' \\\n"
        "    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "six==1.0 \\\n    --hash=sha256:dd\n"
    )


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pin_has_a_hash_and_no_line_an_address(lock: Path) -> None:
    text = lock.read_text()

    assert len(PIN.findall(text)) == len(re.findall(r"^\S+==.* \\\n +--hash=", text, re.MULTILINE))
    assert "://" not in text


def test_what_is_tested_is_what_is_installed_elsewhere() -> None:
    tested = set(PIN.findall((ROOT / "requirements-dev.lock.txt").read_text()))
    others = [lock for lock in LOCKS if lock.name.startswith(("requirements.", "requirements-g"))]

    assert len(others) == 3
    for lock in others:
        assert set(PIN.findall(lock.read_text())) <= tested, lock.name
