"""Answers of MLflow that no MLflow gives."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest

from serving_gateway.contract import RUN_ID_TAG, SIGNATURE_DIGEST_TAG
from serving_gateway.control.registry import Registry
from serving_gateway.errors import Conflict, RegistryUnavailable

DAMAGED = [b"", b"{", b'{"message":"\xe9"}', b'{"features":[],"packed_input":"\xe9"}']


@pytest.mark.parametrize("content", DAMAGED)
async def test_unreadable_answer_is_an_unavailable_registry(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    registry = Registry("http://mlflow", limit_seconds=1, transport=transport)
    with pytest.raises(RegistryUnavailable):
        await registry.version("m", 1)


@pytest.mark.parametrize("content", DAMAGED)
async def test_unreadable_signature_is_the_versions_fault(content: bytes) -> None:
    tags = {RUN_ID_TAG: "run", SIGNATURE_DIGEST_TAG: hashlib.sha256(content).hexdigest()}
    version = {"run_id": "run", "tags": [{"key": k, "value": v} for k, v in tags.items()]}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/get-artifact":
            return httpx.Response(200, content=content)
        return httpx.Response(200, content=json.dumps({"model_version": version}))

    registry = Registry("http://mlflow", limit_seconds=1, transport=httpx.MockTransport(answer))
    with pytest.raises(Conflict) as caught:
        await registry.version("m", 1)
    assert caught.value.code == "signature_unreadable"
