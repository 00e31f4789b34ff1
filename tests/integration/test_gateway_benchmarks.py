"""The benchmark runs against the gateway as it is: a refactoring must not break it unnoticed."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.benchmarks.in_process import summarize
from tests.support.servers import ROOT


def test_the_real_application_answers_in_process() -> None:
    argv = [sys.executable, "-m", "tests.benchmarks.in_process", "--batches", "3"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["batches"] == 3
    assert 0 < figures["noop_us"] < figures["gateway_us"]


def test_the_ratio_is_that_of_the_best_batches() -> None:
    figures = summarize({"gateway": [80.0, 40.0, 60.0], "noop": [10.0, 20.0, 20.0]})
    assert (figures["gateway_us"], figures["noop_us"], figures["ratio"]) == (40, 10, 4)
    assert figures["ratio_median"] == 3
