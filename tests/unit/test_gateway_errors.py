"""Every foreign failure is translated, and every error can be answered."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serving_gateway import errors
from serving_gateway.control.registry import MlflowRegistry
from serving_gateway.errors import (
    BadUpstreamAnswer,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    GatewayError,
    InferenceRefused,
    Overloaded,
    RegistryUnavailable,
    TritonUnavailable,
    Unauthenticated,
)
from serving_gateway.http.raw import error_body
from serving_gateway.http.security import ControlGuard, is_loopback
from serving_gateway.inference.open_inference import check_version
from serving_gateway.settings import Settings
from serving_gateway.triton import exchange
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import error_text, parse_inference
from serving_gateway.triton.server import translated


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    for kind in root.__subclasses__():
        yield kind
        yield from below(kind)


TRANSLATIONS = {
    exchange.ConnectFailed: TritonUnavailable,
    exchange.TooManyConnections: Overloaded,
    exchange.ConnectionLost: TritonUnavailable,
    exchange.ResponseTimeout: DeadlineExceeded,
    exchange.MalformedResponse: BadUpstreamAnswer,
}


def test_every_transport_failure_has_its_translation() -> None:
    assert set(TRANSLATIONS) == set(below(exchange.TransportError))
    for foreign, ours in TRANSLATIONS.items():
        failure = (
            exchange.ConnectionLost("why", answered=False)
            if foreign is exchange.ConnectionLost
            else foreign("why")
        )
        found = translated(failure, "http://t")
        assert type(found) is ours
        assert "why" in found.message


def test_every_error_can_be_answered() -> None:
    kinds = [kind for kind in below(GatewayError) if kind.__module__ == errors.__name__]
    assert len(kinds) > 15
    for kind in kinds:
        error = (
            InferenceRefused("what", upstream_status=400)
            if kind is InferenceRefused
            else kind("what")
        )
        assert isinstance(error, GatewayError)
        assert 400 <= error.status < 600
        body, headers = error_body(error, b"id", {"A": 1})
        assert b'"error":"what"' in body
        assert (error.retry_after is not None) == any(k == b"retry-after" for k, _ in headers)


def test_an_answer_that_is_passed_on_is_checked_for_its_version() -> None:
    head = b'{"model_name":"m","model_version":"2","outputs":[]}'
    for size, body in ((None, head), (len(head), head + b"tensors")):
        answer = TritonResponse(200, size, body)
        check_version(answer, 2)
        with pytest.raises(BadUpstreamAnswer, match="version 2 when asked for version 1") as caught:
            check_version(answer, 1)
        assert caught.value.code == "version_mismatch"
    with pytest.raises(BadUpstreamAnswer, match="unreadable"):
        check_version(TritonResponse(200, None, b"{}"), 1)


def test_an_answer_by_another_version_is_dropped() -> None:
    body = b'{"model_name":"m","model_version":"2","outputs":[]}'
    with pytest.raises(BadUpstreamAnswer) as caught:
        parse_inference(TritonResponse(200, None, body), 1)
    assert caught.value.code == "version_mismatch"
    assert parse_inference(TritonResponse(200, None, body), 2) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b'{"outputs":[]}',
        b'{"model_version":1,"outputs":[]}',
        b'{"model_version":"\xc3","outputs":[]}',
    ],
)
def test_an_unreadable_answer_is_dropped(body: bytes) -> None:
    with pytest.raises(BadUpstreamAnswer):
        parse_inference(TritonResponse(200, None, body), 1)


def test_an_answer_that_ends_too_early_is_dropped() -> None:
    head = (
        b'{"model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
        b'"parameters":{"binary_data_size":4}}]}'
    )
    with pytest.raises(BadUpstreamAnswer, match="ends within"):
        parse_inference(TritonResponse(200, len(head), head + b"123"), 1)


def test_a_refusal_carries_triton_s_reason() -> None:
    with pytest.raises(InferenceRefused, match="too wide"):
        parse_inference(TritonResponse(400, None, b'{"error":"too wide"}'), 1)
    assert error_text(b"<html>") == "<html>"
    assert error_text(b"") == "no reason given"
    assert error_text(b'{"error":"cut \xc3"}') == '{"error":"cut \ufffd"}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={"model_version": {"run_id": "r"}}), "r"),
        (
            httpx.Response(
                200, json={"model_version": {"tags": [{"key": "serving.run_id", "value": "t"}]}}
            ),
            "t",
        ),
        (httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"}), None),
        (httpx.Response(404, text="no such page"), RegistryUnavailable),
        (httpx.Response(500, json={"error_code": "INTERNAL_ERROR"}), RegistryUnavailable),
        (httpx.Response(200, text="<html>"), RegistryUnavailable),
        (httpx.Response(200, json={"model_version": {}}), Conflict),
        (
            httpx.Response(
                200,
                json={
                    "model_version": {
                        "run_id": "r",
                        "tags": [{"key": "serving.signature", "value": "{"}],
                    }
                },
            ),
            Conflict,
        ),
        (httpx.ConnectError("refused"), RegistryUnavailable),
        (httpx.ReadTimeout("slow"), RegistryUnavailable),
    ],
)
async def test_what_mlflow_may_answer(
    answer: httpx.Response | Exception, expected: str | type[Exception] | None
) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    registry = MlflowRegistry("http://mlflow", transport=httpx.MockTransport(handle))
    try:
        if isinstance(expected, type):
            with pytest.raises(expected):
                await registry.version("m", 1)
        else:
            found = await registry.version("m", 1)
            assert (None if found is None else found.run_id) == expected
    finally:
        await registry.aclose()


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("example.org", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_told_from_elsewhere(host: str | None, local: bool) -> None:
    assert is_loopback(host) is local


def test_without_a_token_only_this_host_may_change_what_is_served() -> None:
    guard = ControlGuard(None)
    assert guard.admit("127.0.0.1", {}) == "loopback"
    for peer, headers in (
        ("10.0.0.1", {}),
        (None, {}),
        ("127.0.0.1", {"x-forwarded-for": "1.2.3.4"}),
        ("127.0.0.1", {"origin": "https://example.org"}),
        ("127.0.0.1", {"origin": "null"}),
    ):
        with pytest.raises(Forbidden):
            guard.admit(peer, headers)
    assert guard.admit("127.0.0.1", {"origin": "http://localhost:3000"}) == "loopback"


def test_with_a_token_it_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "s3cret-0123456789"
    monkeypatch.setenv("GATEWAY_CONTROL_TOKEN", token)
    settings = Settings()
    assert token not in repr(settings)
    guard = ControlGuard(settings.control_token)
    assert guard.admit("10.0.0.1", {"authorization": f"bearer {token}"}) == "token"
    near = (f"Bearer {token[:-1]}", f"Basic {token}", f"Bearer {token}2")
    for given in ("", "Bearer", *near, "Bearer ü"):
        with pytest.raises(Unauthenticated):
            guard.admit("127.0.0.1", {"authorization": given})
