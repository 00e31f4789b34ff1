"""How the pipeline reads a gateway's answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import msgspec
import pytest

from platform_assets.resources.gateway import (
    GatewayRefused,
    GatewayResource,
    GatewayUnavailable,
    ModelNotHosted,
    UnreadableAnswer,
    confirmed_version,
    replicas_behind,
    routed_version,
    routed_versions,
)
from serving_gateway.contract import (
    ModelStatus,
    Release,
    ReleaseDecision,
    ReleasePlan,
    ReleaseResponse,
    ReleaseState,
    Strategy,
    Traffic,
)
from tests.support.model_status import effective_version, live_replica, model_status


def test_version_that_triton_confirms_is_confirmed() -> None:
    assert confirmed_version(model_status({"A": effective_version(3)}), "A") == 3


def test_version_that_the_replica_cannot_confirm_is_routed_to_only() -> None:
    status = model_status({"A": effective_version(3, ready=False)})
    assert (confirmed_version(status, "A"), routed_version(status, "A")) == (None, 3)


def test_variant_without_version_has_neither() -> None:
    status = model_status({"A": effective_version(3)})
    assert (confirmed_version(status, "B"), routed_version(status, "B")) == (None, None)


def test_routed_versions_are_those_of_every_variant_and_replica() -> None:
    both = {"A": effective_version(3, ready=False), "B": effective_version(4)}
    one = {"A": effective_version(3)}
    assert routed_versions([model_status(both), model_status(one)]) == (3, 4)


def test_replicas_of_an_older_generation_or_not_ready_are_behind() -> None:
    status = model_status(
        replicas=[
            live_replica("r0", 7),
            live_replica("r1", 6),
            live_replica("r2", 7, ready=False, reasons=("A is not READY",)),
            live_replica("r3", 8),
        ]
    )
    assert replicas_behind(status, 7) == {
        "r1": "generation 6",
        "r2": "not ready: A is not READY",
    }


def test_list_of_replicas_that_may_be_incomplete_is_not_trusted() -> None:
    status = model_status(replicas=[live_replica("r0", 7)], replicas_problem="Redis is gone")
    assert replicas_behind(status, 7) == {"replicas that are not listed": "Redis is gone"}


@pytest.mark.parametrize("urls", ["http://a:1/,http://b:2", " http://a:1 , http://b:2/ ,"])
def test_replicas_are_separated_by_commas(urls: str) -> None:
    gateway = GatewayResource(urls=urls, control_token="secret")
    assert gateway.replicas == ("http://a:1", "http://b:2")


def body(status: ModelStatus) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(status)
    return plain


@contextmanager
def answering(body: Any, status: int = 200) -> Iterator[GatewayResource]:
    """A gateway that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = body if isinstance(body, bytes) else msgspec.json.encode(body)
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            yield GatewayResource(urls=url, control_token="secret")
        finally:
            server.shutdown()
            thread.join()


def test_fields_of_a_newer_gateway_are_ignored() -> None:
    newer = body(model_status({"A": effective_version(3)}, replicas=[live_replica("r0", 1)]))
    newer["weather"] = "fine"
    newer["effective"]["A"]["weather"] = {"in": "Seoul"}
    newer["replicas"][0]["weather"] = ["fine"]
    newer["routing"]["weather"] = None
    with answering(newer) as gateway:
        [status] = gateway.model_statuses("best_model")
    assert confirmed_version(status, "A") == 3


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("routing", "switches"),
        ("routing", "previous"),
        ("routing", "changed_by"),
        ("routing", "store_problem"),
        ("ssot", "prod_served_version"),
        ("ssot", "reason"),
        ("replica", "reasons"),
    ],
)
def test_fields_that_an_older_gateway_lacks_have_defaults(part: str, name: str) -> None:
    older = body(model_status({"A": effective_version(3)}))
    del older[part][name]
    for optional in ("signature", "feature_contract", "onnx_sha256", "reason"):
        del older["effective"]["A"][optional]
    with answering(older) as gateway:
        [status] = gateway.model_statuses("best_model")
    assert getattr(getattr(status, part), name) in (None, (), {})
    assert confirmed_version(status, "A") == 3


@pytest.mark.parametrize("name", ["replicas", "replicas_problem", "effective"])
def test_answer_without_the_evidence_of_a_switch_is_unreadable(name: str) -> None:
    incomplete = body(model_status({"A": effective_version(3)}))
    del incomplete[name]
    with answering(incomplete) as gateway, pytest.raises(UnreadableAnswer, match=name):
        gateway.model_statuses("best_model")


@pytest.mark.parametrize("answer", [b"<html>", b"", b"\xff", b"[]", b"null"])
def test_answer_of_another_server_is_unreadable(answer: bytes) -> None:
    with answering(answer) as gateway:
        for call in (gateway.health, gateway.model_status):
            with pytest.raises(UnreadableAnswer, match="compatible release"):
                call(gateway.urls, "best_model")
        with pytest.raises(UnreadableAnswer, match="/models/best_model/predict"):
            gateway.predict("best_model", [[1]])


def stopped(status: str) -> dict[str, Any]:
    plan = ReleasePlan(steps=(Traffic(Strategy.MIRROR, 100),))
    at = "2026-01-01T00:00:00Z"
    state = ReleaseState.STOPPED
    release = Release("one", 2, "run-2", 1, plan, state, 0, at, at, "token:pipeline")
    answer: dict[str, Any] = msgspec.to_builtins(ReleaseResponse(status, release, 7, changed=True))
    return answer


def test_a_stop_that_no_replica_could_write_down_is_asked_of_each() -> None:
    decision = ReleaseDecision("too slow")
    with answering(stopped("stop_pending"), 202) as one, answering(stopped("success")) as other:
        both = GatewayResource(urls=f"{one.urls},{other.urls}", control_token="secret")
        assert both.stop_release("best_model", decision).status == "success"
        assert one.stop_release("best_model", decision).status == "stop_pending"
        away = GatewayResource(urls=f"http://127.0.0.1:9,{one.urls}", control_token="secret")
        assert away.stop_release("best_model", decision).status == "stop_pending"
    with pytest.raises(GatewayUnavailable):
        both.stop_release("best_model", decision)


def test_refusal_has_the_code_and_reason_of_the_gateway() -> None:
    refused = {"status": "error", "code": "variant_pinned", "error": "A is pinned.", "new": 1}
    with answering(refused, 409) as gateway, pytest.raises(GatewayRefused) as raised:
        gateway.model_status(gateway.urls, "best_model")
    assert (raised.value.status, raised.value.code) == (409, "variant_pinned")
    assert "A is pinned." in str(raised.value)


def test_refusal_of_a_proxy_is_quoted() -> None:
    with (
        answering(b"<h1>Bad gateway</h1>", 502) as gateway,
        pytest.raises(GatewayRefused) as raised,
    ):
        gateway.model_statuses("best_model")
    assert (raised.value.code, "Bad gateway" in str(raised.value)) == ("", True)


def test_model_that_no_replica_hosts_has_no_status() -> None:
    unknown = {"status": "error", "code": "unknown_model", "error": "There is no model x."}
    with answering(unknown, 404) as gateway:
        assert gateway.model_statuses("x") == []
        with pytest.raises(ModelNotHosted):
            gateway.model_status(gateway.urls, "x")
