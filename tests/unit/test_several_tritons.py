"""Which servers an address stands for, and what it means to ask all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from platform_assets.export.runtime import ModelAnswers
from platform_assets.resources import triton as resource_module
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.triton import (
    TritonAddress,
    TritonEndpoint,
    TritonResource,
    addresses,
    resolve_host,
)
from platform_assets.resources.triton_api import (
    IndexEntry,
    TritonError,
    TritonRefused,
    TritonUnreachable,
)
from platform_assets.serving import latency
from platform_assets.serving import loaded_version as candidate_module
from platform_assets.serving.gates import triton_parity, triton_ready
from platform_assets.serving.latency import Latencies
from platform_assets.serving.loaded_version import LoadedVersion
from platform_assets.serving.records import ServingState
from tests.support.descriptors import open_descriptors
from tests.support.models import IRIS

PODS = ["10.0.0.4", "10.0.0.7"]


def behind(*found: str) -> Callable[[str], list[str]]:
    return lambda host: list(found)


@pytest.mark.parametrize("url", ["http://triton:8000", "http://127.0.0.1:8000", "no address", ""])
def test_one_server_is_addressed_as_it_was_written(url: str) -> None:
    for resolver in (behind(), behind("10.0.0.4")):
        assert addresses(url, "triton:8001", resolver) == (TritonAddress(url, "triton:8001"),)


def test_an_ip_address_is_not_looked_up() -> None:
    def never(host: str) -> list[str]:
        raise AssertionError(host)

    assert len(addresses("http://127.0.0.1:8000", "", never)) == 1
    assert len(addresses("http://[::1]:8000", "", never)) == 1


def test_a_name_with_several_addresses_means_each_of_them() -> None:
    found = addresses("http://triton-headless:8000/base", "triton-headless:8001", behind(*PODS))
    assert found == (
        TritonAddress("http://10.0.0.4:8000/base", "10.0.0.4:8001"),
        TritonAddress("http://10.0.0.7:8000/base", "10.0.0.7:8001"),
    )
    assert [one.grpc_url for one in addresses("http://t:8000", "", behind(*PODS))] == ["", ""]
    six = addresses("http://t:8000", "t:8001", behind("fd00::4", "fd00::7"))
    assert six[0] == TritonAddress("http://[fd00::4]:8000", "[fd00::4]:8001")


def test_a_list_means_all_in_it_in_order() -> None:
    found = addresses("http://a:1, http://b:2", "a:3,b:4", behind(*PODS))
    assert found == (TritonAddress("http://a:1", "a:3"), TritonAddress("http://b:2", "b:4"))


@pytest.mark.parametrize(
    ("url", "grpc_url", "message"),
    [
        ("http://a:1,http://b:2", "a:3", "names 2 Tritons and 'a:3' 1"),
        ("http://triton:8000", "other:8001", "the host of TRITON_URL"),
    ],
)
def test_addresses_that_do_not_fit_together_are_refused(
    url: str, grpc_url: str, message: str
) -> None:
    with pytest.raises(TritonError, match=message):
        addresses(url, grpc_url, behind(*PODS))


def test_the_resolver_names_a_server_of_both_kinds_once() -> None:
    assert resolve_host("localhost") in (["127.0.0.1"], ["::1"])
    assert resolve_host("triton.invalid") == []
    assert resolve_host("a" * 70) == []  # longer than a name may be


class Name:
    """A name whose servers the test changes while they are asked."""

    def __init__(self, *servers: str) -> None:
        self.servers = list(servers)
        self.asked: list[str] = []

    def addresses(self, url: str, grpc_url: str) -> tuple[TritonAddress, ...]:
        return tuple(TritonAddress(one, "") for one in self.servers)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    name = Name("a", "b")
    monkeypatch.setattr(resource_module, "addresses", name.addresses)
    monkeypatch.setattr(resource_module, "_PAUSE_S", 0.001)
    return name


def several(replacement_s: float = 30) -> TritonResource:
    return TritonResource(url="http://t", control_key="k", replacement_s=replacement_s)


def test_everyone_is_asked_once_and_one_that_comes_meanwhile_too(name: Name) -> None:
    def ask(endpoint: TritonEndpoint) -> str:
        name.asked.append(endpoint.url)
        name.servers = ["a", "c"] if endpoint.url == "b" else name.servers
        return endpoint.url.upper()

    assert several().everywhere(ask) == ["A", "C"]
    assert name.asked == ["a", "b", "c"]


def test_one_that_leaves_meanwhile_does_not_count(name: Name) -> None:
    def ask(endpoint: TritonEndpoint) -> str:
        if endpoint.url == "b":
            name.servers = ["a", "c"]
            raise TritonUnreachable("b is gone")
        return endpoint.url

    assert several(replacement_s=0).everywhere(ask) == ["a", "c"]


def test_one_that_starts_is_waited_for(name: Name) -> None:
    def ask(endpoint: TritonEndpoint) -> str:
        name.asked.append(endpoint.url)
        if len(name.asked) < 5 and endpoint.url == "b":
            raise TritonUnreachable("b starts")
        return endpoint.url

    assert several().everywhere(ask) == ["a", "b"]
    assert name.asked == ["a", *"bbbb"]


@pytest.mark.parametrize("servers", [["b"], ["a", "b"]])
def test_one_that_stays_away_is_unavailable(name: Name, servers: list[str]) -> None:
    name.servers = servers

    def ask(endpoint: TritonEndpoint) -> str:
        name.asked.append(endpoint.url)
        if endpoint.url == "b":
            raise TritonUnreachable("b is down")
        return endpoint.url

    # The only one is not waited for at all.
    with pytest.raises(TritonUnreachable, match="b is down"):
        several(replacement_s=30 if servers == ["b"] else 0.05).everywhere(ask)
    assert name.asked.count("b") == 1 if servers == ["b"] else name.asked.count("b") > 1


def test_after_one_that_refuses_no_other_is_asked(name: Name) -> None:
    def ask(endpoint: TritonEndpoint) -> None:
        name.asked.append(endpoint.url)
        raise TritonRefused("no", status=400, reason="no")

    with pytest.raises(TritonRefused):
        several().everywhere(ask)
    assert name.asked == ["a"]


class Registry(MlflowResource):
    """An MLflow that has one run with two evaluated rows."""

    tracking_uri: str = "http://127.0.0.1:9"

    def version(self, model_name: str, version: int) -> RegisteredVersion:
        return cast(RegisteredVersion, SimpleNamespace(signature=IRIS.signature((0, 1, 2))))

    def evaluation_set(self, run_id: str) -> EvaluationSet:
        rows = pd.DataFrame({name: [1.0, 2.0] for name in IRIS.feature_names}, dtype="float32")
        labels = np.array([0, 1])
        return EvaluationSet(rows, labels, labels, np.eye(3)[:2], labels)

    def log_artifact_bytes(self, run_id: str, path: str, data: bytes) -> None:
        raise RegistryError("not kept here")


def candidate() -> LoadedVersion:
    state = ServingState("best_model", 2, "run", True, "", (1, 2), "load")
    unused: Any = None
    return LoadedVersion(IRIS, state, several(), unused, Registry(), unused, unused)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (IndexEntry("best_model", 2, "READY", ""), None),
        (IndexEntry("best_model", 2, "UNAVAILABLE", "no memory"), "no memory at b"),
        (IndexEntry("best_model", None, "", ""), "never loaded at b"),
    ],
)
def test_version_is_ready_where_every_server_lists_it_ready(
    name: Name, monkeypatch: pytest.MonkeyPatch, other: IndexEntry, problem: str | None
) -> None:
    ready = IndexEntry("best_model", 2, "READY", "")
    indexes = {"a": [IndexEntry("best_model", 1, "READY", ""), ready], "b": [other]}
    monkeypatch.setattr(TritonEndpoint, "index", lambda self, _: indexes[self.url])
    monkeypatch.setattr(TritonEndpoint, "version_ready", lambda *_: True)
    verdict = triton_ready(candidate())
    assert verdict.passed is (problem is None)
    assert (problem or "is READY") in str(verdict.description)


@pytest.mark.parametrize(("otherwise", "passed"), [("a", False), ("b", False), ("nobody", True)])
def test_every_server_has_to_answer_as_scikit_learn_does(
    name: Name, monkeypatch: pytest.MonkeyPatch, otherwise: str, passed: bool
) -> None:
    def ask(asked: object, rows: object, endpoint: TritonEndpoint) -> ModelAnswers:
        return np.array([2, 2] if endpoint.url == otherwise else [0, 1]), np.eye(3)[:2]

    monkeypatch.setattr(candidate_module, "ask_triton", ask)
    verdict = triton_parity(candidate())
    assert verdict.passed is passed
    assert verdict.metadata["servers"].value == 2


def test_a_version_that_gateways_would_refuse_is_refused_before_the_switch(
    name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(asked: object, rows: pd.DataFrame, endpoint: TritonEndpoint) -> ModelAnswers:
        if endpoint.url == "b" and len(rows) == 1:
            assert (rows == 0).all(axis=None)
            raise TritonRefused("refused", status=400, reason="category '' is unknown")
        return np.array([0, 1]), np.eye(3)[:2]

    monkeypatch.setattr(candidate_module, "ask_triton", ask)
    verdict = triton_parity(candidate())
    assert not verdict.passed
    assert verdict.severity is dg.AssetCheckSeverity.ERROR
    assert verdict.description == (
        "version 2 did not answer a row of zeros, False and empty texts, which gateways send as a "
        "trial before they route to a version: refused; production stays where it is"
    )


def test_the_slowest_server_has_to_be_quick_enough(
    name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(
        candidate: object, endpoint: TritonEndpoint, inputs: object, clients: int
    ) -> Latencies:
        return Latencies(clients, (1.0 if endpoint.url == "a" else 1000.0,) * 1000)

    monkeypatch.setattr(latency, "measure", measure)
    verdict = latency.triton_latency(candidate())
    assert not verdict.passed
    assert verdict.metadata["p99_ms"].value == 1000


def test_a_thread_that_asked_triton_leaves_no_descriptors_open() -> None:
    def ask() -> None:
        with pytest.raises(TritonUnreachable):
            TritonEndpoint("http://127.0.0.1:9", "", "key", 1, 1).ready_versions("m")

    ask()
    before = len(open_descriptors())
    for _ in range(5):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert len(open_descriptors()) == before
