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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.pages import tracked_files
from tests.support.servers import ROOT

_ENVIRONMENTS: Final = (".venv", ".venv-triton")
_FAILED: Final = 1
"""pytest's exit code when tests failed, or could not begin."""
_SUMMARY: Final = re.compile(r"^\d+ failed", re.MULTILINE)
"""How its last line begins when a test has failed."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A guard in a file, the text without it, and the test that must miss it.

    `case` is the name of one of `cases.CASES`. `guard` stands in the file once.
    """

    case: str
    file: str
    guard: str
    without: str
    test: str


_KILLED: Final = "tests/faults/test_killed_runs.py::test_a_run_"
_RELEASES: Final = "tests/faults/test_releases.py::test_"
_REPOSITORY: Final = "platform_assets/resources/model_repository.py"
_OF_FILES: Final = "tests/unit/test_model_repository.py::test_"

REMOVALS: Final = (
    Removal(
        "run worker killed at every asset",
        "platform_assets/resources/mlflow.py",
        "        if existing is not None:\n            return existing\n        source",
        "        source",
        _KILLED + "killed_at_every_asset_and_resumed_does_each_thing_once",
    ),
    Removal(
        "cancellation during publishing",
        _REPOSITORY,
        "            shutil.rmtree(staging, ignore_errors=True)\n        return True",
        "            pass\n        return True",
        _KILLED + "canceled_while_it_publishes_or_switches_leaves_nothing_half_done",
    ),
    Removal(
        "activator killed between READY and commit, and before the acknowledgement",
        "serving_gateway/control/record_writer.py",
        "if changed is base and not merged.write:",
        "if False:",
        "tests/faults/test_activation.py"
        "::test_activation_whose_replica_dies_around_the_commit_happens_once",
    ),
    Removal(
        "killed, stopped, slow, erroring",
        "serving_gateway/control/provenance.py",
        "held = _on_record(record, model_name, version)",
        "held = None if _on_record else None",
        "tests/integration/test_gateway_reload.py"
        "::test_a_reload_works_without_mlflow_by_what_is_on_record",
    ),
    Removal(
        "every process killed in every step, clocks that jump",
        "serving_gateway/control/release_control.py",
        "                router.withdraw(release.id)\n",
        "",
        _RELEASES + "stop_without_the_store_is_in_effect_at_once_and_written_later",
    ),
    Removal(
        "every process killed in every step, clocks that jump",
        "serving_gateway/control/release_watch.py",
        "await self.store.put(name, self.process_id, evidence, has_ended=has_ended)",
        "pass",
        _RELEASES + "what_a_killed_replica_had_counted_is_not_lost",
    ),
    Removal(
        "a flood of outcomes",
        "serving_gateway/telemetry/outcome_files.py",
        "        if size < _LARGE_BYTES:",
        "        if path.stat().st_size < _LARGE_BYTES:",
        "tests/unit/test_outcome_files.py::test_files_are_large_by_what_they_take_in_memory",
    ),
    Removal(
        "truncated, bit-flipped, digest changed",
        _REPOSITORY,
        "if digest != provenance.onnx_sha256:",
        "if False:",
        _OF_FILES + "bytes_that_are_not_those_recorded_are_not_packaged",
    ),
    Removal(
        "hostile names",
        _REPOSITORY,
        "check_model_name(model_name) / str(version)",
        "model_name / str(version)",
        _OF_FILES + "a_name_that_could_leave_the_repository_is_refused",
    ),
    Removal(
        "wrong shape, NaN, another answer than scikit-learn's",
        "platform_assets/export/parity.py",
        "np.where(np.isnan(distance), np.inf, distance)",
        "distance",
        "tests/unit/test_export_parity.py::test_nan_is_no_parity",
    ),
    Removal(
        "two publishers of one version",
        _REPOSITORY,
        "            self._same_or_conflict(target, provenance)\n",
        "",
        "tests/faults/test_publishing.py"
        "::test_of_publishers_of_one_version_one_wins_and_none_mixes",
    ),
    Removal(
        "Triton's admin APIs, on HTTP and gRPC",
        "platform_assets/local_stack/triton_server.py",
        '        f"--http-restricted-api={locked}:{CONTROL_HEADER}={control_key}",\n',
        "",
        "tests/integration/test_triton_lifecycle.py"
        "::test_what_changes_the_server_is_locked_over_http",
    ),
)


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
            is_missed = _is_missed(folder, removal)
            unnoticed += not is_missed
            said = "its test failed" if is_missed else f"NOT NOTICED by {removal.test}"
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


def _is_missed(folder: Path, removal: Removal) -> bool:
    """Whether the test fails without the guard; one that cannot even begin does not count."""
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
    is_missed = done.returncode == _FAILED and _SUMMARY.search(done.stdout) is not None
    if done.returncode and not is_missed:
        sys.stderr.write(done.stdout[-2000:])
    return is_missed


if __name__ == "__main__":
    sys.exit(main())
