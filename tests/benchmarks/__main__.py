"""`python -m tests.benchmarks [part ...]`: the gateway, raw Triton and two ceilings.

Everything is real and as a user has it. Parts: `cpu` (in-process), `throughput` (closed loop),
`open-loop` (steady rate with switches), `drills` (rollbacks), `memory`. Default: all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import report, targets
from tests.benchmarks.cases import PREDICT, PREDICTIONS
from tests.benchmarks.drills import measure_drills
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.picture import draw
from tests.benchmarks.stage import Stage, run_stage
from tests.benchmarks.steady import measure_steady
from tests.benchmarks.throughput import figures, measure_rounds, peak_per_second
from tests.benchmarks.wrk import BenchmarkError, Case, run
from tests.servers import ROOT, ServerError

PARTS = ("cpu", "throughput", "open-loop", "drills", "memory")
_PROGRAMS = {"wrk": "wrk", "haproxy": "haproxy", "redis-server": "redis-server"}
_PEAK_SECONDS = 5


def arguments_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of the closed loop")
    parser.add_argument("--seconds", type=int, default=2, help="per measurement of it")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batches", type=int, default=200, help="of 100 requests in-process")
    parser.add_argument("--switches", type=int, default=200, help="during the open loop")
    parser.add_argument(
        "--rate", type=float, help="requests/s of the open loop; default: half of the peak"
    )
    parser.add_argument("--drills", type=int, default=1_000)
    parser.add_argument("--output", type=Path, default=Path(".local/bench.json"))
    return parser


def main() -> int:
    """Measure, print the report, write the figures; exit code 1 when a measurement failed."""
    parser = arguments_parser()
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            sys.stderr.write(f"{program} is missing: apt-get install {package}\n")
            return 1
    run_parts = [part for part in PARTS if part in (arguments.parts or PARTS)]
    try:
        measured = measure(arguments, run_parts)
    except (BenchmarkError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write(measured, arguments.output)
    return 0


def measure(arguments: argparse.Namespace, parts: list[str]) -> dict[str, Any]:
    """Run the parts one after the other; figures, texts and verdicts by part.

    Raises:
        BenchmarkError: a measurement failed.
        ServerError: a server did not start.
    """
    measured: dict[str, Any] = {"machine": machine(), "texts": [], "verdicts": []}

    def keep(part: str, found: Any, text: str, verdicts: list[targets.Verdict]) -> None:
        measured[part] = found
        measured["texts"].append(text)
        measured["verdicts"] += verdicts

    if {"throughput", "open-loop"} & set(parts):
        with _home() as home, run_stage(home) as stage:
            measure_stage(stage, arguments, parts, home, keep)
    if "cpu" in parts:
        found = measure_cpu(arguments.batches)
        keep("cpu", found, report.cpu_line(found), targets.judge_cpu(found))
    if "drills" in parts:
        with _home() as home:
            found = measure_drills(home, arguments.drills).summary()
        keep("drills", found, report.drills_line(found), targets.judge_drills(found))
    if "memory" in parts:
        with _home() as home:
            found = measure_memory(home)
        keep("memory", found, report.memory_line(found), targets.judge_memory(found))
    return measured


def measure_stage(
    stage: Stage, arguments: argparse.Namespace, parts: list[str], home: Path, keep: Any
) -> None:
    """The parts that share servers: the closed loop, and the open loop at half of its peak."""
    peak = None
    if "throughput" in parts:
        rounds = measure_rounds(
            stage,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            connections=arguments.connections,
            folder=home,
        )
        found = figures(rounds)
        keep(
            "throughput",
            {"rounds": arguments.rounds, "seconds": arguments.seconds, **found},
            f"{report.table(found['rows'])}\n\nMedians of {arguments.rounds} rounds of "
            f"{arguments.seconds} s, 0 answers other than 2xx. {report.BACKEND}",
            targets.judge_throughput(rounds),
        )
        peak = peak_per_second(found["rows"])
    if "open-loop" in parts:
        rate = arguments.rate or (peak or measure_peak(stage, home)) / 2
        steady = measure_steady(stage.gateway, stage.addresses.noop, rate, arguments.switches)
        text = report.open_loop_table(steady)
        keep("open-loop", steady, text, targets.judge_steady(steady))


def measure_peak(stage: Stage, folder: Path) -> float:
    """Requests/s of /predict from 64 connections, where the closed loop was not measured."""
    case = Case(PREDICTIONS, f"{stage.gateway.url}/predict", PREDICT)
    run(case, 64, 1, folder)
    return run(case, 64, _PEAK_SECONDS, folder).per_second


def measure_cpu(batches: int) -> dict[str, Any]:
    """CPU in-process, in a process that holds nothing else.

    Raises:
        BenchmarkError: it failed.
    """
    sys.stderr.write("CPU in-process\n")
    argv = [sys.executable, "-m", "tests.benchmarks.in_process", "--batches", str(batches)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"in process: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": psutil.cpu_count(),
        "load_average_at_start": psutil.getloadavg(),
        "python": platform.python_version(),
    }


def write(measured: dict[str, Any], output: Path) -> None:
    """Print the report; write it, the figures and the picture next to each other."""
    verdicts: list[targets.Verdict] = measured.pop("verdicts")
    cores = measured["machine"]["cores"]
    load = measured["machine"]["load_average_at_start"][0]
    parts = [*measured.pop("texts"), f"{cores} cores; load average at the start {load:.1f}."]
    text = "\n\n".join([*parts, report.verdict_table(verdicts)])
    output.parent.mkdir(parents=True, exist_ok=True)
    found = [{**_fields(one), "reached": one.is_reached} for one in verdicts]
    output.write_text(json.dumps({**measured, "verdicts": found}, indent=1) + "\n")
    output.with_suffix(".md").write_text(f"{text}\n")
    sys.stdout.write(f"{text}\n\nFigures: {output}, {output.with_suffix('.md')}\n")
    if "throughput" in measured:
        picture = output.with_suffix(".png")
        draw(measured["throughput"]["rows"], picture)
        sys.stdout.write(f"Picture: {picture}\n")


def _fields(verdict: targets.Verdict) -> dict[str, Any]:
    return {"figure": verdict.figure, "bound": verdict.bound, "measured": verdict.measured}


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
