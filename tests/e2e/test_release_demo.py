"""`make release-demo` with its first version and the one that a guardrail stops.

By `make faults` only: it takes three minutes. The other two versions take two more:
`integration/test_release_chain.py` takes a version to production in steps, and
`unit/test_replay_gate.py` lets one answer what is logged.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from platform_assets.local_stack.release_demo.command import PARTS
from platform_assets.local_stack.settings import ROOT
from tests.faults.scale import report

DEADLINE_S = 540


@pytest.mark.timeout(600)
def test_a_version_that_fails_for_some_clients_is_stopped_while_no_request_fails(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "platform_assets.local_stack", "release-demo"],
        env={**os.environ, "STATE_DIR": str(tmp_path / "state"), PARTS: "1,4"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 2: stopped by the guardrail failures; in production: version 1" in done.stdout
    assert "by version 1; 0 failed" in done.stdout
    [(requests, seconds)] = re.findall(r"([\d,]+) requests of clients in (\d+) s", done.stdout)
    report("release_demo", requests=int(requests.replace(",", "")), failed=0, seconds=int(seconds))
    passport = tmp_path / "state" / "release-demo" / "ledger" / "passports" / "deliveries"
    assert (passport / "v1.html").is_file()
    left = [one for one in psutil.process_iter(["cmdline"]) if is_of(one, tmp_path)]
    assert left == []


def is_of(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in part for part in process.info["cmdline"] or ())
