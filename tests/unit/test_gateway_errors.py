"""Every foreign failure is translated, and every error can be answered."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from serving_gateway import errors
from serving_gateway.contract import SIGNATURE_DIGEST_TAG
from serving_gateway.control.registry import Registry
from serving_gateway.errors import (
    Conflict,
    GatewayError,
    InferenceRefused,
    RegistryUnavailable,
)
from serving_gateway.http.raw import error_body
from serving_gateway.settings import Settings


def below(root: type[Exception]) -> Iterator[type[Exception]]:
    for kind in root.__subclasses__():
        yield kind
        yield from below(kind)


def test_every_error_can_be_answered() -> None:
    kinds = [kind for kind in below(GatewayError) if kind.__module__ == errors.__name__]
    assert len(kinds) > 15
    for kind in kinds:
        error = InferenceRefused("what") if kind is InferenceRefused else kind("what")
        assert isinstance(error, GatewayError)
        assert 400 <= error.status < 600
        body, headers = error_body(error, b"id", {"A": 1})
        assert b'"error":"what"' in body
        assert (error.retry_after is not None) == any(k == b"retry-after" for k, _ in headers)


def signed(digest: str) -> httpx.Response:
    """A version whose signature is said to have a digest."""
    tags = [{"key": SIGNATURE_DIGEST_TAG, "value": digest}]
    return httpx.Response(200, json={"model_version": {"run_id": "r", "tags": tags}})


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
        (signed("0"), Conflict),
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

    registry = Registry("http://mlflow", transport=httpx.MockTransport(handle))
    try:
        if isinstance(expected, type):
            with pytest.raises(expected):
                await registry.version("m", 1)
        else:
            found = await registry.version("m", 1)
            assert (None if found is None else found.run_id) == expected
    finally:
        await registry.aclose()


async def test_signature_with_its_digest_that_is_none_is_refused() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/get-artifact":
            return httpx.Response(200, content=b"{")
        return signed(hashlib.sha256(b"{").hexdigest())

    registry = Registry("http://mlflow", transport=httpx.MockTransport(handle))
    with pytest.raises(Conflict, match="in MLflow is not valid") as caught:
        await registry.version("m", 1)
    await registry.aclose()
    assert caught.value.code == "signature_unreadable"


async def test_mlflow_is_asked_with_the_token_or_as_a_user_of_its_login() -> None:
    asked: list[str | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("authorization"))
        return httpx.Response(200, json={"model_version": {"run_id": "r"}})

    transport = httpx.MockTransport(handle)
    for registry in (
        Registry("http://mlflow", transport=transport),
        Registry("http://mlflow", token=SecretStr("abc"), transport=transport),
        Registry("http://mlflow", username="me", password=SecretStr("s3cr3t"), transport=transport),
    ):
        await registry.version("m", 1)
        await registry.aclose()
    assert asked == [None, "Bearer abc", f"Basic {base64.b64encode(b'me:s3cr3t').decode()}"]


def test_address_with_a_password_is_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MLFLOW_URL", "http://me:s3cr3t@mlflow:5000")
    with pytest.raises(ValidationError, match="must not hold a user or password") as caught:
        Settings()
    assert "s3cr3t" not in f"{caught.value} {caught.value!r}"
