"""Two real Triton servers share a repository: a version that one lacks is never switched to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import httpx
import numpy as np
import pytest

from platform_assets.export.inspection import inspect_graph, sha256
from platform_assets.export.records import PackagedVersion
from platform_assets.export.triton_config import ServingOptions, model_config, to_text
from platform_assets.local_stack.triton_server import control_key, control_key_file
from platform_assets.resources import triton as resource_module
from platform_assets.resources.model_repository import ModelRepository, Provenance
from platform_assets.resources.triton import (
    TritonAddress,
    TritonEndpoint,
    TritonResource,
    TritonUnreachable,
)
from platform_assets.serving.loading import load_beside, persisted_versions, retire
from platform_assets.serving.promotion import require_ready
from platform_assets.serving.reconcile import observed_drift, restore
from platform_assets.serving.records import ServingState
from serving_gateway.contract import DEFAULT_MODEL as MODEL
from tests.support.gateway_harness import run_gateway
from tests.support.onnx_models import telltale
from tests.support.servers import RunningTriton, run_triton

ROW = {"features": np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)}


@dataclass(slots=True)
class Pair:
    """Two Triton servers and the resource that stands for both."""

    running: tuple[RunningTriton, RunningTriton]
    repository: ModelRepository

    @property
    def both(self) -> TritonResource:
        return TritonResource(
            url=",".join(one.http_url for one in self.running),
            grpc_url=",".join(one.grpc_url for one in self.running),
            control_key=self.running[0].control_key,
            replacement_s=0.5,
        )

    @property
    def endpoints(self) -> tuple[TritonEndpoint, ...]:
        return self.both.endpoints()

    def load(self, version: int) -> ServingState:
        graph = telltale(version)
        summary, digest = inspect_graph(graph), sha256(graph)
        self.repository.package(graph, Provenance(MODEL, version, "run", digest, "f", "test"))
        config = model_config(MODEL, summary.inputs, summary.outputs, [version], ServingOptions())
        return load_beside(
            PackagedVersion(MODEL, version, "run", digest, to_text(config)),
            triton=self.both,
            repository=self.repository,
            timeout_s=30,
            log=lambda line: None,
        )

    def ready(self) -> list[tuple[int, ...]]:
        """What each has READY."""
        return [one.ready_versions(MODEL) for one in self.endpoints]

    def answers(self, version: int) -> list[int]:
        """What each answers when asked for the version."""
        found = [one.infer(MODEL, version, ROW, ["label"]) for one in self.endpoints]
        return [int(answer["label"].ravel()[0]) for answer in found]

    @property
    def persisted(self) -> tuple[int, ...]:
        return persisted_versions(self.repository, MODEL)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("pair")
    (home / "repository").mkdir()
    control_key(home / "one")
    control_key_file(home / "two").parent.mkdir(parents=True)
    shutil.copy(control_key_file(home / "one"), control_key_file(home / "two"))
    with (
        run_triton(home / "repository", home / "one") as one,
        run_triton(home / "repository", home / "two") as two,
    ):
        yield Pair((one, two), ModelRepository(root=str(home / "repository")))


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """Version 1 READY on both, and nothing else."""
    if 1 not in servers.persisted:
        assert servers.load(1).ready
    restore(MODEL, servers.both, servers.repository, lambda line: None)
    retire(MODEL, [1], triton=servers.both, repository=servers.repository)
    assert servers.ready() == [(1,), (1,)]
    return servers


def test_a_candidate_becomes_ready_on_both_and_is_retired_on_both(pair: Pair) -> None:
    state = pair.load(2)
    assert (state.ready, state.ready_versions, pair.persisted) == (True, (1, 2), (1, 2))
    assert (pair.answers(1), pair.answers(2)) == ([1, 1], [2, 2])
    assert pair.both.version_ready(MODEL, 2)
    assert retire(MODEL, [2], triton=pair.both, repository=pair.repository) == (1,)
    assert (pair.ready(), pair.persisted) == ([(2,), (2,)], (2,))


def test_one_that_refuses_leaves_both_and_the_file_as_they_were(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pair.repository.persisted_config(MODEL)
    second = pair.endpoints[1]
    damage_before_load(second, pair.repository.path(MODEL, 3) / "model.onnx", monkeypatch)

    state = pair.load(3)

    assert not state.ready
    assert second.grpc_url in state.reason
    assert pair.ready() == [(1,), (1,)]
    assert pair.answers(1) == [1, 1]
    assert pair.repository.persisted_config(MODEL) == before
    with pytest.raises(dg.Failure, match="does not report version 3"):
        require_ready(state, pair.both)


def damage_before_load(
    endpoint: TritonEndpoint, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let this server alone find the file damaged."""
    load = TritonEndpoint.load

    def damaged(self: TritonEndpoint, name: str, config: dict[str, object]) -> None:
        good = file.read_bytes()
        if self.url == endpoint.url:
            file.write_bytes(b"damaged")
        try:
            load(self, name, config)
        finally:
            file.write_bytes(good)

    monkeypatch.setattr(TritonEndpoint, "load", damaged)


def test_a_version_that_one_lost_is_not_ready_and_given_back_to_it(pair: Pair) -> None:
    assert pair.load(2).ready
    pair.endpoints[1].unload(MODEL)

    assert pair.both.ready_versions(MODEL) == ()
    assert pair.both.ready_anywhere(MODEL) == (1, 2)
    assert not pair.both.version_ready(MODEL, 2)
    assert "READY" not in {entry.state for entry in pair.endpoints[1].index(MODEL)}
    drift = observed_drift(MODEL, pair.both, pair.repository)
    assert drift is not None
    assert (drift.lost, drift.gained) == ((1, 2), ())

    assert restore(MODEL, pair.both, pair.repository, lambda line: None) == drift
    assert pair.ready() == [(1, 2), (1, 2)]
    assert pair.answers(2) == [2, 2]


def test_one_that_dies_stops_loads_and_comes_back_with_what_served(pair: Pair) -> None:
    assert pair.load(2).ready
    config = pair.repository.persisted_config(MODEL)
    pair.running[1].kill()
    with pytest.raises(TritonUnreachable, match=pair.running[1].http_url):
        pair.load(4)
    assert pair.endpoints[0].ready_versions(MODEL) == (1, 2)
    assert pair.repository.persisted_config(MODEL) == config
    pair.running[1].restart()
    assert pair.ready() == [(1, 2), (1, 2)]
    assert not observed_drift(MODEL, pair.both, pair.repository)


def test_one_that_came_during_the_load_gets_the_version_too(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read the file before the version was named there."""
    ends = [TritonAddress(one.url, one.grpc_url) for one in pair.endpoints]
    there = ends[:1]
    monkeypatch.setattr(resource_module, "addresses", lambda url, grpc_url: tuple(there))
    persist = ModelRepository.persist_config

    def then_another_is_there(self: ModelRepository, name: str, text: str) -> None:
        persist(self, name, text)
        there[:] = ends

    monkeypatch.setattr(ModelRepository, "persist_config", then_another_is_there)

    assert pair.load(2).ready
    assert pair.ready() == [(1, 2), (1, 2)]


def test_the_gateway_is_not_switched_to_what_one_of_them_lacks(pair: Pair, tmp_path: Path) -> None:
    urls = ",".join(one.http_url for one in pair.running)
    with run_gateway(
        tmp_path, pair.running[0].http_url, env={"GATEWAY_TRITON_SERVERS_URL": urls}
    ) as gateway:

        def switch(version: int) -> httpx.Response:
            asked = {"version": version, "run_id": "run", "mode": "ssot"}
            return gateway.client.post("/variant/A/reload", json=asked)

        assert switch(1).status_code == 200
        assert pair.load(2).ready
        pair.endpoints[1].unload(MODEL)
        refused = switch(2)
        assert refused.status_code == 409
        assert "READY: none" in refused.json()["error"]
        assert gateway.client.get("/models").json()["effective"]["A"]["version"] == 1

        restore(MODEL, pair.both, pair.repository, lambda line: None)
        assert switch(2).json()["version"] == 2
        assert gateway.client.get("/models").json()["ssot"]["served_versions"] == [1, 2]
