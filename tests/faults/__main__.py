"""`python -m tests.faults` (`make faults`): the long forms of the fault and abuse cases.

Writes results.json, the table of README.md and its plot. `--only TEXT` runs the cases whose name
contains it, `--at-once N` so many side by side, `--page` only writes the page anew. The exit code
is 1 when a case failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.faults.cases import CASES, Case
from tests.faults.page import (
    README,
    Result,
    draw,
    machine,
    read_results,
    rewritten,
    write_results,
)
from tests.faults.scale import FIGURES, FORM
from tests.support.servers import ROOT, SHARE


def main() -> int:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="", help="part of the name of the cases to run")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page anew")
    parser.add_argument("--at-once", type=int, default=1, help="cases that run side by side")
    arguments = parser.parse_args()
    chosen = [case for case in CASES if case.long and arguments.only in case.name]
    if arguments.page:
        chosen = []
    results = read_results()
    # The longest first: of cases side by side, none is left alone at the end for long.
    chosen.sort(key=lambda case: -results[case.name].seconds if case.name in results else -inf)
    shares: SimpleQueue[int] = SimpleQueue()
    for share in range(arguments.at_once):
        shares.put(share)
    failed = 0
    with ThreadPoolExecutor(arguments.at_once) as pool:
        running = {pool.submit(_run, case, shares): case for case in chosen}
        for number, done in enumerate(as_completed(running), 1):
            name, result = running[done].name, done.result()
            verdict = "good" if result.is_good else "FAILED"
            sys.stderr.write(f"{number} of {len(chosen)}, {verdict}: {name}\n")
            failed += not result.is_good
            results[name] = result
            write_results(results)
    if results:
        draw(results)
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if failed else 0


def _run(case: Case, shares: SimpleQueue[int]) -> Result:
    """Run the long form of a case.

    Its servers have a share of the ports of their own: one that is down for a moment would find
    its port taken by a server of the case beside it.
    """
    share = shares.get()
    sys.stderr.write(f"begins: {case.name}\n")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", *case.long],
            cwd=ROOT,
            # Without what the test printed, its end says why it failed.
            env={
                **os.environ,
                FORM: "long",
                FIGURES: folder,
                SHARE: str(share),
                "PYTEST_ADDOPTS": "--show-capture=no",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        figures = _figures(case, done.stdout, Path(folder))
    shares.put(share)
    if done.returncode:
        sys.stderr.write(f"of {case.name}:\n{done.stdout[-3000:]}\n")
    return Result(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        is_good=done.returncode == 0,
        seconds=round(time.monotonic() - began, 1),
        figures=figures,
    )


def _figures(case: Case, output: str, folder: Path) -> dict[str, Any]:
    """What a test has reported, or a benchmark has printed as JSON."""
    if case.figures is not None:
        file = folder / f"{case.figures}.json"
        output = file.read_text(encoding="utf-8") if file.exists() else "{}"
    start, end = output.find("{"), output.rfind("\n}")
    text = output if case.figures is not None else output[start : end + 2]
    found: dict[str, Any] = json.loads(text) if text.strip() else {}
    return found


if __name__ == "__main__":
    sys.exit(main())
