"""Every foreign failure is translated, and every error can be answered."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from serving_gateway.triton.client import translated

from serving_gateway import errors
from serving_gateway.control.registry import MlflowRegistry
from serving_gateway.errors import (
    BadUpstreamAnswer,
    Conflict,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    RegistryUnavailable,
    TritonUnavailable,
)
from serving_gateway.http.raw import error_body
from serving_gateway.inference.open_inference import check_version
from serving_gateway.triton import connections
from serving_gateway.triton.connections import Answer
from serving_gateway.triton.protocol import error_text, parse_inference


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    for kind in root.__subclasses__():
        yield kind
        yield from below(kind)


TRANSLATIONS = {
    connections.ConnectFailed: TritonUnavailable,
    connections.ConnectionLost: TritonUnavailable,
    connections.AnswerTimeout: DeadlineExceeded,
    connections.MalformedAnswer: BadUpstreamAnswer,
}


def test_every_transport_failure_has_its_translation() -> None:
    assert set(TRANSLATIONS) == set(below(connections.TransportError))
    for foreign, ours in TRANSLATIONS.items():
        failure = (
            connections.ConnectionLost("why", answered=False)
            if foreign is connections.ConnectionLost
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
    for answer in (Answer(200, None, head), Answer(200, len(head), head + b"tensors")):
        check_version(answer, 2)
        with pytest.raises(BadUpstreamAnswer, match="version 2 when asked for version 1") as caught:
            check_version(answer, 1)
        assert caught.value.code == "version_mismatch"
    with pytest.raises(BadUpstreamAnswer, match="unreadable"):
        check_version(Answer(200, None, b"{}"), 1)


def test_an_answer_by_another_version_is_dropped() -> None:
    body = b'{"model_name":"m","model_version":"2","outputs":[]}'
    with pytest.raises(BadUpstreamAnswer) as caught:
        parse_inference(Answer(200, None, body), 1)
    assert caught.value.code == "version_mismatch"
    assert parse_inference(Answer(200, None, body), 2) == []


@pytest.mark.parametrize(
    "body", [b"", b"x", b'{"outputs":[]}', b'{"model_version":1,"outputs":[]}']
)
def test_an_unreadable_answer_is_dropped(body: bytes) -> None:
    with pytest.raises(BadUpstreamAnswer):
        parse_inference(Answer(200, None, body), 1)


def test_an_answer_that_ends_too_early_is_dropped() -> None:
    head = (
        b'{"model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
        b'"parameters":{"binary_data_size":4}}]}'
    )
    with pytest.raises(BadUpstreamAnswer, match="ends within"):
        parse_inference(Answer(200, len(head), head + b"123"), 1)


def test_a_refusal_carries_triton_s_reason() -> None:
    with pytest.raises(InferenceRefused, match="too wide"):
        parse_inference(Answer(400, None, b'{"error":"too wide"}'), 1)
    assert error_text(b"<html>") == "<html>"
    assert error_text(b"") == "no reason given"


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
