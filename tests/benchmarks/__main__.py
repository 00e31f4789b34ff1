"""`python -m tests.benchmarks`: raw Triton, a plain gateway and ours, on the same cores.

Everything is real and as a user has it. The cases of a round follow each other, round after
round, and medians are reported, so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from serving_gateway.contract import DEFAULT_MODEL, MAX_BATCH_SIZE
from tests.benchmarks.entities import ENTITIES, start_entities
from tests.benchmarks.picture import draw
from tests.benchmarks.wrk import BenchmarkError, Case, Measurement, run, summarize, table
from tests.onnx_models import iris_classifier, write_entry
from tests.servers import (
    LOOPBACK,
    RunningProcess,
    RunningTriton,
    ServerError,
    answers_ok,
    free_port,
    run_process,
    run_triton,
)

BATCHED = "best_model_batched"
ROW = "[5.1,3.5,1.4,0.2]"
PREDICT = f'{{"data":[{ROW}],"client_id":"customer-17"}}'
ENTITY = '{"entity_id":{id},"client_id":"customer-17"}'
INFER = '{"inputs":[{"name":"features","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}'
RAW = ("raw Triton, dynamic batching off", "raw Triton, dynamic batching on")


def main() -> int:
    """Measure, print the table, write the figures; exit code 1 when a measurement failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="per measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--output", type=Path, default=Path(".local/bench.json"))
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.stderr.write("wrk is missing: apt-get install wrk\n")
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            figures = measure(arguments, Path(folder), stack)
    except (BenchmarkError, ServerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
    picture = arguments.output.with_suffix(".png")
    draw(figures["rows"], picture)
    sys.stdout.write(f"{figures['table']}\n\nFigures: {arguments.output}, {picture}\n")
    return 0


def measure(
    arguments: argparse.Namespace, home: Path, stack: contextlib.ExitStack
) -> dict[str, Any]:
    """Start all servers, load them in turns, and return the figures."""
    triton = stack.enter_context(start_triton(home))
    plain, _ = stack.enter_context(start_yardstick(home, triton))
    ours, process = stack.enter_context(start_gateway(home, triton))
    entities = {
        store: stack.enter_context(start_entities(home / store, triton, store))
        for store in ("sqlite", "redis")
    }
    infer = f"/v2/models/{DEFAULT_MODEL}"
    cases: list[tuple[Case, Callable[[], None]]] = [
        (Case(RAW[0], f"{triton.http_url}{infer}/versions/1/infer", INFER), _nothing),
        (
            Case(RAW[1], f"{triton.http_url}/v2/models/{BATCHED}/versions/1/infer", INFER),
            _nothing,
        ),
        (Case("FastAPI + tritonclient.http.aio", f"{plain}/predict", PREDICT), _nothing),
        (Case("gateway", f"{ours}/predict", PREDICT), lambda: policy(ours, "off", 0)),
        (
            Case("gateway, split 50 %", f"{ours}/predict", PREDICT),
            lambda: policy(ours, "split", 50),
        ),
        (
            Case("gateway, mirror 100 %", f"{ours}/predict", PREDICT),
            lambda: policy(ours, "mirror", 100),
        ),
        *(
            (Case(f"gateway, entity_id ({store})", f"{url}/predict", ENTITY, ENTITIES), _nothing)
            for store, url in entities.items()
        ),
        (Case("gateway, /v2 JSON", f"{ours}{infer}/infer", INFER), lambda: policy(ours, "off", 0)),
    ]
    for case, prepare in cases:
        prepare()
        run(case, 8, 1, home)
    rounds: list[dict[tuple[str, int], Measurement]] = []
    for number in range(arguments.rounds):
        found: dict[tuple[str, int], Measurement] = {}
        for connections in arguments.connections:
            for case, prepare in cases:
                prepare()
                found[case.name, connections] = run(case, connections, arguments.seconds, home)
        rounds.append(found)
        sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")
    memory = process.server.memory_info().rss / 2**20
    rows = summarize(rounds, RAW)
    return {
        "table": f"{table(rows)}\n\nGateway: {memory:.0f} MiB resident, one worker; "
        f"{psutil.cpu_count()} cores, medians of {arguments.rounds} rounds of "
        f"{arguments.seconds} s.",
        "rows": rows,
        "gateway_mib": round(memory, 1),
        "cores": psutil.cpu_count(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "load_average": psutil.getloadavg(),
    }


def _nothing() -> None:
    """What raw Triton and the yardstick need before a measurement."""


def policy(url: str, strategy: str, percent: float) -> None:
    """Set the gateway's traffic policy."""
    body = {"strategy": strategy, "percent": percent}
    answer = httpx.put(f"{url}/traffic", json=body, trust_env=False)
    if answer.status_code != 200:
        raise BenchmarkError(f"PUT /traffic: {answer.text}")


@contextlib.contextmanager
def start_triton(home: Path) -> Iterator[RunningTriton]:
    """The same iris model twice: without dynamic batching (two versions) and with it."""
    repository = home / "repository"
    model = iris_classifier()
    versions = {1: model, 2: iris_classifier(0.1)}
    write_entry(repository, DEFAULT_MODEL, versions, max_batch_size=MAX_BATCH_SIZE)
    write_entry(
        repository,
        BATCHED,
        {1: model},
        max_batch_size=MAX_BATCH_SIZE,
        extra="dynamic_batching { preferred_batch_size: [8, 16] }",
    )
    with run_triton(repository, home) as triton:
        yield triton


@contextlib.contextmanager
def start_gateway(home: Path, triton: RunningTriton) -> Iterator[tuple[str, RunningProcess]]:
    """Our gateway, one worker, with A and B on two versions."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    env = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_TRITON_URL": triton.http_url,
        "GATEWAY_STATE_DIR": str(home / "gateway"),
    }
    with run_process(
        [sys.executable, "-m", "serving_gateway"],
        ready=lambda: answers_ok(f"{url}/health"),
        log=home / "logs" / "gateway.log",
        env=env,
    ) as process:
        for alias, version in (("A", 1), ("B", 2)):
            body = {"version": version, "run_id": "bench"}
            answer = httpx.post(f"{url}/variant/{alias}/reload", json=body, trust_env=False)
            if answer.status_code != 200:
                raise BenchmarkError(f"reload: {answer.text}")
        yield url, process


@contextlib.contextmanager
def start_yardstick(home: Path, triton: RunningTriton) -> Iterator[tuple[str, RunningProcess]]:
    """The plain gateway, one worker on the same server, loop and parser."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    argv = [
        *(sys.executable, "-m", "uvicorn", "--factory", "tests.benchmarks.yardstick:app"),
        *("--host", LOOPBACK, "--port", str(port), "--loop", "uvloop", "--http", "httptools"),
        *("--no-access-log", "--log-level", "warning"),
    ]
    with run_process(
        argv,
        ready=lambda: answers_ok(f"{url}/openapi.json"),
        log=home / "logs" / "yardstick.log",
        env={"TRITON_URL": triton.http_url, "MODEL_NAME": DEFAULT_MODEL},
    ) as process:
        yield url, process


if __name__ == "__main__":
    sys.exit(main())
