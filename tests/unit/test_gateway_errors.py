"""Every foreign failure is translated, and every error can be answered."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from serving_gateway import errors
from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.control.registry import MlflowRegistry
from serving_gateway.errors import (
    BadUpstreamAnswer,
    Conflict,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    Overloaded,
    RegistryUnavailable,
    TritonUnavailable,
)
from serving_gateway.http.raw import error_body
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.wire import ResponseReader
from serving_gateway.triton import exchange
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.protocol import error_text
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


def reader(version: int) -> ResponseReader:
    features = (Feature("x", DType.FP32),)
    return ResponseReader(version, Codec(Signature(features, packed_input="features")))


def test_a_response_by_another_version_is_dropped() -> None:
    head = b'{"model_name":"m","model_version":"2","outputs":[]}'
    for response in (TritonResponse(200, None, head), TritonResponse(200, len(head), head + b"t")):
        assert reader(2).read(response, 1).rows == 1
        with pytest.raises(BadUpstreamAnswer, match="version 2 when asked for version 1") as caught:
            reader(1).read(response, 1)
        assert caught.value.code == "version_mismatch"


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
def test_an_unreadable_response_is_dropped(body: bytes) -> None:
    with pytest.raises(BadUpstreamAnswer):
        reader(1).read(TritonResponse(200, None, body), 1)


def test_a_response_that_ends_too_early_is_dropped() -> None:
    head = (
        b'{"model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1],'
        b'"parameters":{"binary_data_size":4}}]}'
    )
    with pytest.raises(BadUpstreamAnswer, match="ends within"):
        reader(1).read(TritonResponse(200, len(head), head + b"123"), 1)


def test_the_reason_of_a_refusal_is_read_in_any_encoding() -> None:
    assert error_text(b'{"error":"too wide"}') == "too wide"
    assert error_text(b'{"error":"cut \xc3"}') == '{"error":"cut \ufffd"}'
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
