"""Which servers an address of several Tritons stands for."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from serving_gateway.errors import TritonUnavailable
from serving_gateway.settings import Settings
from serving_gateway.triton.cluster import TritonClusters
from serving_gateway.triton.discovery import server_urls


async def test_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["10.0.0.7", "10.0.0.4", "10.0.0.4"]

    async def look_up(self: object, host: str, port: int, **options: Any) -> list[Any]:
        assert host == "triton-headless"
        six = (socket.AF_INET6, 1, 6, "", ("fd00::4", port, 0, 0))
        return [six, *((socket.AF_INET, 1, 6, "", (ip, port)) for ip in addresses)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", look_up)
    found = await server_urls("http://triton-headless:8000/base")
    assert found == ["http://10.0.0.4:8000/base", "http://10.0.0.7:8000/base"]
    addresses.clear()
    assert await server_urls("http://triton-headless:8000") == ["http://[fd00::4]:8000"]


async def test_name_without_addresses_is_unavailable() -> None:
    with pytest.raises(TritonUnavailable, match=r"triton\.invalid"):
        await server_urls("http://triton.invalid:8000")


def test_setting_is_a_list_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRITON_SERVERS_URL", "http://a:8000/,http://b:8000")
    assert Settings().triton_servers_url == "http://a:8000,http://b:8000"
    monkeypatch.setenv("GATEWAY_TRITON_SERVERS_URL", "http://a:8000,b")
    with pytest.raises(ValueError, match="triton_servers_url"):
        Settings()


async def test_server_of_variant_b_may_have_replicas_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRITON_URL", "http://a:8000")
    monkeypatch.setenv("GATEWAY_TRITON_SERVERS_URL", "http://127.0.0.1:81,http://127.0.0.1:82")
    monkeypatch.setenv("GATEWAY_SHADOW_TRITON_URL", "http://b:8000")
    shadows = "http://127.0.0.1:83,http://127.0.0.1:84"
    monkeypatch.setenv("GATEWAY_SHADOW_TRITON_SERVERS_URL", shadows)
    tritons = TritonClusters(Settings())
    servers = {url: [*tritons.get(url)._servers] for url in ("http://a:8000", "http://b:8000")}
    await tritons.aclose()
    assert servers == {
        "http://a:8000": ["http://127.0.0.1:81", "http://127.0.0.1:82"],
        "http://b:8000": ["http://127.0.0.1:83", "http://127.0.0.1:84"],
    }
