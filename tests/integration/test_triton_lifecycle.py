"""What the real Triton does over loads, failures, restarts and stops; DESIGN's facts, held."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from platform_assets.export.triton_config import from_text, load_override, with_versions
from platform_assets.local_stack.triton_server import shared_memory_prefix
from platform_assets.resources.triton import TritonEndpoint, TritonError, TritonRefused
from serving_gateway.contract import DEFAULT_MODEL as MODEL
from tests.support.onnx_models import (
    config_text,
    slow,
    telltale,
    write_config,
    write_entry,
    write_version,
)
from tests.support.servers import RunningTriton, answers_ok, run_triton, wait_until
from tests.support.serving import workers

VERSIONS = {version: telltale(version) for version in (1, 2, 3)}


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[RunningTriton]:
    """Three versions on disk, a persisted policy that names 1 and 3."""
    write_entry(repository, MODEL, VERSIONS, serve=[1, 3])
    with run_triton(repository, tmp_path) as running:
        yield running


def endpoint(server: RunningTriton) -> TritonEndpoint:
    return TritonEndpoint(server.http_url, server.grpc_url, server.control_key, 10.0, 120.0)


def serving(server: RunningTriton, versions: list[int], extra: str = "") -> dict[str, Any]:
    """The persisted configuration with another version policy, as a load override.

    Made from the file, never from what Triton tells about a loaded model: that is completed
    with defaults, counts as another configuration and would load every version anew.
    """
    text = (server.repository / MODEL / "config.pbtxt").read_text()
    return load_override(with_versions(from_text(text + extra), versions))


@dataclass
class Load:
    """Clients on kept connections, each asking one version again and again."""

    url: str
    versions: list[int]
    clients: int = 6
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(self.versions[i % len(self.versions)],))
            for i in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.sent > 50 or bool(self.failures), 20, "requests are flowing")
        self.slowest_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, version: int) -> None:
        tensor = {"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
        body = json.dumps({"inputs": [tensor]})
        address = f"{self.url}/v2/models/{MODEL}/versions/{version}/infer"
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    answer = client.post(address, content=body)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.sent += 1
                response = answer.json()
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {response}")
                    continue
                label = next(o["data"] for o in response["outputs"] if o["name"] == "label")
                if (response["model_version"], label) != (str(version), [version]):
                    self.failures.append(f"asked {version}: {response}")
                # Leave the machine's cores to the load that is under test.
                self._stop.wait(0.02)


def test_kill_9_and_restart_bring_back_exactly_the_persisted_versions(
    server: RunningTriton, tmp_path: Path
) -> None:
    triton = endpoint(server)
    assert triton.ready_versions(MODEL) == (1, 3)
    regions = list(Path("/dev/shm").glob(f"{shared_memory_prefix(tmp_path)}*"))
    server.kill()
    assert not answers_ok(f"{triton.url}/v2/health/live")
    server.restart()
    assert triton.ready_versions(MODEL) == (1, 3)
    assert not triton.version_ready(MODEL, 2)
    left = list(Path("/dev/shm").glob(f"{shared_memory_prefix(tmp_path)}*"))
    assert len(regions) == len(left) == 2, "regions of the killed server were left"


def test_a_candidate_that_was_not_persisted_is_not_back_after_a_restart(
    server: RunningTriton,
) -> None:
    triton = endpoint(server)
    triton.load(MODEL, serving(server, [2, 3]))
    assert triton.ready_versions(MODEL) == (2, 3)
    server.kill()
    server.restart()
    assert triton.ready_versions(MODEL) == (1, 3)


def test_a_model_that_was_never_persisted_is_not_loaded_at_a_start(server: RunningTriton) -> None:
    triton = endpoint(server)
    write_version(server.repository, "candidate", 1, telltale(1))
    triton.load("candidate", {**serving(server, [1]), "name": "candidate"})
    assert triton.ready_versions("candidate") == (1,)
    server.restart()
    assert triton.ready_versions("candidate") == ()
    assert triton.ready_versions(MODEL) == (1, 3)


def test_a_restart_onto_a_broken_version_serves_none_until_the_good_ones_are_loaded(
    server: RunningTriton,
) -> None:
    """A first load is all or nothing; whoever reconciles must name the good versions alone."""
    (server.repository / MODEL / "3" / "model.onnx").write_bytes(b"rotten")
    server.kill()
    server.restart()
    triton = endpoint(server)
    assert triton.ready_versions(MODEL) == ()
    states = {entry.version: (entry.state, entry.reason) for entry in triton.index(MODEL)}
    assert states[3][0] == "UNAVAILABLE"
    assert "ONNX Runtime cannot load" in states[3][1]
    triton.load(MODEL, serving(server, [1]))
    assert triton.ready_versions(MODEL) == (1,)


def test_a_persisted_policy_naming_a_missing_version_still_brings_the_good_ones(
    server: RunningTriton,
) -> None:
    write_config(server.repository, MODEL, config_text(MODEL, telltale(1), [1, 9]))
    server.kill()
    server.restart()
    assert endpoint(server).ready_versions(MODEL) == (1,)


def test_a_broken_candidate_leaves_the_others_serving_and_the_server_ready(
    server: RunningTriton,
) -> None:
    triton = endpoint(server)
    write_version(server.repository, MODEL, 4, telltale(4)[:-100])
    with Load(server.http_url, [1, 3]) as load, pytest.raises(TritonRefused):
        triton.load(MODEL, serving(server, [1, 3, 4]))
    assert load.failures == []
    assert triton.ready_versions(MODEL) == (1, 3)
    assert httpx.get(f"{server.http_url}/v2/health/ready", trust_env=False).status_code == 200


def test_a_load_that_differs_in_versions_alone_touches_no_other_version(
    server: RunningTriton,
) -> None:
    triton = endpoint(server)
    kept = workers(server)[3]
    with Load(server.http_url, [3]) as load:
        for _ in range(3):
            triton.load(MODEL, serving(server, [2, 3]))
            assert triton.ready_versions(MODEL) == (2, 3)
            # What is persisted meanwhile changes nothing about the next load by override.
            write_config(server.repository, MODEL, config_text(MODEL, telltale(1), [2, 3]))
            triton.load(MODEL, serving(server, [3]))
            assert triton.ready_versions(MODEL) == (3,)
            wait_until(lambda: workers(server) == {3: kept}, 20, "the retired worker has ended")
    assert load.failures == []
    assert load.sent > 100


def test_a_load_over_grpc_holds_up_no_client(server: RunningTriton) -> None:
    triton = endpoint(server)
    with Load(server.http_url, [3], clients=12) as load:
        began = time.monotonic()
        triton.load(MODEL, serving(server, [1, 2, 3]))
        took = time.monotonic() - began
    assert load.failures == []
    # Over HTTP about half of the clients wait as long as the load takes.
    assert load.slowest_s < took / 2


def test_a_load_that_changes_more_than_versions_replaces_all_and_drops_nothing(
    server: RunningTriton,
) -> None:
    triton = endpoint(server)
    before = set(workers(server).values())
    batching = "dynamic_batching { preferred_batch_size: [8] }"
    with Load(server.http_url, [1, 3]) as load:
        for extra in (batching, "", batching):
            triton.load(MODEL, serving(server, [1, 3], extra))
    assert load.failures == []
    assert triton.ready_versions(MODEL) == (1, 3)
    wait_until(lambda: not before & set(workers(server).values()), 20, "the old workers ended")


def test_sigterm_finishes_what_runs_and_what_waits(repository: Path, tmp_path: Path) -> None:
    write_entry(repository, "slow", {1: slow()}, max_batch_size=0)
    with run_triton(repository, tmp_path) as server:
        triton = replace(endpoint(server), timeout_s=60.0)
        began = time.monotonic()
        triton.infer("slow", 1, {"rounds": np.array([100])})
        rounds = int(100 * 2 / (time.monotonic() - began))
        answers: list[Any] = []

        def ask() -> None:
            try:
                answers.append(triton.infer("slow", 1, {"rounds": np.array([rounds])}))
            except TritonError as error:
                answers.append(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: waiting(server) == 1, 10, "one request runs, another waits")
        server.process.signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait() == 0
        assert [type(answer) for answer in answers] == [dict, dict], answers
        assert not answers_ok(f"{triton.url}/v2/health/live")


def waiting(server: RunningTriton) -> float:
    """Requests that wait for an instance."""
    lines = httpx.get(server.metrics_url, trust_env=False).text.splitlines()
    counts = [line for line in lines if line.startswith("nv_inference_pending_request_count{")]
    return sum(float(line.split()[-1]) for line in counts)


OPEN = ["v2", "v2/health/live", "v2/health/ready", "v2/models/stats"] + [
    f"v2/models/{MODEL}/versions/1{part}" for part in ("", "/ready", "/stats")
]
LOCKED = [
    ("POST", "v2/repository/index"),
    ("POST", f"v2/repository/models/{MODEL}/load"),
    ("POST", f"v2/repository/models/{MODEL}/unload"),
    ("GET", f"v2/models/{MODEL}/versions/1/config"),
    ("GET", "v2/systemsharedmemory/status"),
    ("POST", "v2/systemsharedmemory/region/r/register"),
    ("POST", "v2/systemsharedmemory/unregister"),
    ("GET", "v2/cudasharedmemory/status"),
    ("GET", "v2/trace/setting"),
    ("POST", "v2/trace/setting"),
    ("POST", f"v2/models/{MODEL}/trace/setting"),
    ("GET", "v2/logging"),
    ("POST", "v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), LOCKED)
def test_what_changes_the_server_is_locked_over_http(
    shared_triton: RunningTriton, method: str, path: str
) -> None:
    url = f"{shared_triton.http_url}/{path}"
    with httpx.Client(trust_env=False) as client:
        assert client.request(method, url, content=b"{}").status_code == 403
        wrong = {"triton-control-key": "wrong"}
        assert client.request(method, url, content=b"{}", headers=wrong).status_code == 403


@pytest.mark.parametrize("path", OPEN)
def test_what_the_gateway_needs_is_open(shared_triton: RunningTriton, path: str) -> None:
    answer = httpx.get(f"{shared_triton.http_url}/{path}", trust_env=False)
    assert answer.status_code == 200


def test_what_changes_the_server_is_locked_over_grpc(shared_triton: RunningTriton) -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(
        shared_triton.grpc_url, channel_args=[("grpc.enable_http_proxy", 0)]
    )
    locked = [
        client.get_model_repository_index,
        lambda: client.load_model(MODEL),
        lambda: client.unload_model(MODEL),
        lambda: client.get_model_config(MODEL),
        client.get_system_shared_memory_status,
        lambda: client.register_system_shared_memory("r", "/x", 8),
        client.get_cuda_shared_memory_status,
        client.get_trace_settings,
        client.get_log_settings,
        lambda: client.update_log_settings({"log_info": False}),
    ]
    for call in locked:
        with pytest.raises(InferenceServerException, match="restricted"):
            call()
    assert client.is_server_live()
    assert client.is_model_ready(MODEL, "1")
    assert client.get_inference_statistics(MODEL, "1")
    client.close()
