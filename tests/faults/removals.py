"""`python -m tests.faults.removals`: removes guards of the product one by one.

Each time the test that names the guard has to fail. Works on a copy of the tracked files and leaves
the tree as it is. `--only TEXT` takes the guards whose case or file contains it. The exit
code is 1 when a test did not miss its guard.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.guards import REMOVALS, Removal
from tests.support.pages import tracked_files
from tests.support.servers import ROOT

_ENVIRONMENTS: Final = (".venv", ".venv-triton")
_FAILED: Final = 1
"""pytest's exit code when tests failed, or could not begin."""
_SUMMARY: Final = re.compile(r"^\d+ failed", re.MULTILINE)
"""How its last line begins when a test has failed."""
_ERROR: Final = re.compile(r"^E +(\S.*)", re.MULTILINE)
_SAID: Final = 200
"""Characters of the first error, which tell whoever reads them whether it is about the guard."""


def main() -> int:
    """Remove what is asked for, and say what each test did."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.removals", description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of the case or the file")
    only = parser.parse_args().only
    chosen = [one for one in REMOVALS if only in one.case or only in one.file]
    unnoticed = 0
    with _copy() as folder:
        for number, removal in enumerate(chosen, 1):
            sys.stderr.write(f"{number} of {len(chosen)}: {removal.case}: {removal.file}\n")
            began = time.monotonic()
            failure = _failure(folder, removal)
            unnoticed += failure is None
            said = f"NOT NOTICED by {removal.test}" if failure is None else f"failed: {failure}"
            sys.stderr.write(f"  {said}, {time.monotonic() - began:,.0f} s\n")
    return 1 if unnoticed else 0


@contextmanager
def _copy() -> Iterator[Path]:
    """The tracked files in a folder of their own, with the environments of this one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in tracked_files("."):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
        for environment in _ENVIRONMENTS:
            (folder / environment).symlink_to((ROOT / environment).resolve())
        yield folder


def _failure(folder: Path, removal: Removal) -> str | None:
    """How the test fails without the guard; None when it passes, or cannot even begin."""
    file = folder / removal.file
    whole = file.read_text("utf-8")
    file.write_text(whole.replace(removal.guard, removal.without), "utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", removal.test],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        file.write_text(whole, "utf-8")
    if done.returncode == _FAILED and _SUMMARY.search(done.stdout) is not None:
        said = _ERROR.search(done.stdout)
        return "" if said is None else said[1][:_SAID]
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:])
    return None


if __name__ == "__main__":
    sys.exit(main())
