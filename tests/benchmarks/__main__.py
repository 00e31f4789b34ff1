"""`python -m tests.benchmarks [part ...]`: the gateway, raw Triton and two ceilings.

Everything is real and as a user has it. Parts: `throughput` (closed loop), `open-loop` (steady
rate with switches), `cpu` and `lookups` (in-process), `logging` (of every request), `drills`
(rollbacks), `memory`, `models` (hundreds of idle ones). Default: all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks import report, targets
from tests.benchmarks.cases import PREDICT, PREDICTIONS
from tests.benchmarks.drills import measure_drills
from tests.benchmarks.logging_cost import measure_logging
from tests.benchmarks.many_models import MODELS, measure_many_models
from tests.benchmarks.memory import measure_memory
from tests.benchmarks.results import Results
from tests.benchmarks.stage import Stage, run_stage
from tests.benchmarks.steady import measure_steady
from tests.benchmarks.throughput import figures, measure_rounds, peak_per_second
from tests.benchmarks.wrk import BenchmarkError, Case, run
from tests.support.programs import require_programs
from tests.support.servers import ROOT

PARTS = ("throughput", "open-loop", "cpu", "lookups", "logging", "drills", "memory", "models")
_PROGRAMS = ("wrk", "haproxy", "redis-server")
"""Each in the Debian package of its name."""
_PEAK_SECONDS = 5


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="of the closed loop")
    parser.add_argument("--seconds", type=int, default=2, help="per measurement of it")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--switches", type=int, default=200, help="during the open loop")
    parser.add_argument(
        "--rate", type=float, help="requests/s of the open loop; default: half of the peak"
    )
    parser.add_argument("--batches", type=int, default=200, help="of 100 requests in-process")
    parser.add_argument("--drills", type=int, default=1_000)
    parser.add_argument("--models", type=int, default=MODELS, help="that are idle")
    parser.add_argument("--output", type=Path, default=Path(".local/bench.json"))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    return arguments


def main() -> int:
    """Measure, print the report, write the figures; exit code 1 when a part failed."""
    arguments = parse_arguments()
    require_programs(*_PROGRAMS)
    results = Results()
    measure(results, arguments, arguments.parts or PARTS)
    files = results.write(arguments.output)
    sys.stdout.write(f"{results.report}\n\nWritten: {', '.join(map(str, files))}\n")
    return 1 if results.problems else 0


def measure(results: Results, arguments: argparse.Namespace, parts: Collection[str]) -> None:
    """Run the parts one after the other."""
    if {"throughput", "open-loop"} & set(parts):
        with results.attempt("servers"), _home() as home, run_stage(home) as stage:
            measure_stage(results, stage, arguments, parts, home)
    if "cpu" in parts:
        with results.attempt("cpu"):
            cpu = measure_in_process("in_process", arguments.batches)
            results.keep("cpu", cpu, report.cpu_line(cpu), targets.judge_cpu(cpu))
    if "lookups" in parts:
        with results.attempt("lookups"):
            found = measure_in_process("lookups", arguments.batches)
            text = report.lookups_line(found)
            results.keep("lookups", found, text, targets.judge_lookups(found))
    if "logging" in parts:
        with results.attempt("logging"), _home() as home:
            logged = measure_logging(home)
            text = report.logging_line(logged)
            results.keep("logging", logged, text, targets.judge_logging(logged))
    if "drills" in parts:
        with results.attempt("drills"), _home() as home:
            drills = measure_drills(home, arguments.drills).summary()
            results.keep("drills", drills, report.drills_line(drills), targets.judge_drills(drills))
    if "memory" in parts:
        with results.attempt("memory"), _home() as home:
            memory = measure_memory(home)
            results.keep("memory", memory, report.memory_line(memory), targets.judge_memory(memory))
    if "models" in parts:
        with results.attempt("models"), _home() as home:
            models = measure_many_models(home, arguments.models)
            text = report.many_models_line(models)
            results.keep("models", models, text, targets.judge_many_models(models))


def measure_stage(
    results: Results,
    stage: Stage,
    arguments: argparse.Namespace,
    parts: Collection[str],
    home: Path,
) -> None:
    """The parts that share servers: the closed loop, and the open loop at half of its peak."""
    peak = None
    if "throughput" in parts:
        with results.attempt("throughput"):
            rounds = measure_rounds(
                stage,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                connections=arguments.connections,
                folder=home,
            )
            found = figures(rounds)
            peak = peak_per_second(found["rows"])
            text = report.throughput(found["rows"], arguments.rounds, arguments.seconds)
            results.keep("throughput", found, text, targets.judge_throughput(rounds))
    if "open-loop" in parts:
        with results.attempt("open-loop"):
            rate = arguments.rate or (peak or measure_peak(stage, home)) / 2
            steady = measure_steady(stage.gateway, stage.addresses.noop, rate, arguments.switches)
            text = report.open_loop_table(steady)
            results.keep("open-loop", steady, text, targets.judge_steady(steady))


def measure_peak(stage: Stage, folder: Path) -> float:
    """Requests/s of /predict from 64 connections, where the closed loop was not measured."""
    case = Case(PREDICTIONS, f"{stage.gateway.url}/predict", PREDICT)
    run(case, 64, 1, folder)
    return run(case, 64, _PEAK_SECONDS, folder).per_second


def measure_in_process(module: str, batches: int) -> dict[str, Any]:
    """The figures of an in-process benchmark, in a process that holds nothing else.

    Raises:
        BenchmarkError: it failed.
    """
    argv = [sys.executable, "-m", f"tests.benchmarks.{module}", "--batches", str(batches)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
