"""Several Triton servers behind one address, as a gateway sees them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from serving_gateway.errors import DeadlineExceeded, GatewayError, TritonUnavailable
from serving_gateway.settings import Settings
from serving_gateway.triton.client import Triton
from serving_gateway.triton.connections import (
    AnswerTimeout,
    ConnectFailed,
    ConnectionLost,
    TransportError,
)
from serving_gateway.triton.discovery import server_urls, versions_ready_on_every_server

DOWN, HANGS = TritonUnavailable("down"), DeadlineExceeded("hangs", code="triton_timeout")


@pytest.mark.parametrize(
    ("told", "ready"),
    [
        ({"http://a": (1, 2)}, (1, 2)),
        ({"http://a": (1, 2), "http://b": (2, 3)}, (2,)),
        ({"http://a": (1, 2), "http://b": ()}, ()),
        ({"http://a": (1, 2), "http://b": DOWN}, (1, 2)),
        ({"http://a": DOWN, "http://b": DOWN}, DOWN),
        ({"http://a": (1, 2), "http://b": HANGS}, HANGS),
    ],
)
async def test_ready_is_what_each_server_that_can_be_reached_has_ready(
    told: dict[str, tuple[int, ...] | GatewayError], ready: tuple[int, ...] | GatewayError
) -> None:
    async def ask(url: str) -> tuple[int, ...]:
        found = told[url]
        if isinstance(found, GatewayError):
            raise found
        return found

    # Two at least, so that nobody is looked up.
    listed = ",".join(told) if len(told) > 1 else "http://a,http://a"
    if isinstance(ready, GatewayError):
        with pytest.raises(type(ready)):
            await versions_ready_on_every_server(listed, ask)
    else:
        assert await versions_ready_on_every_server(listed, ask) == ready


async def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_name_without_addresses_is_unavailable() -> None:
    with pytest.raises(TritonUnavailable, match=r"triton\.invalid"):
        await server_urls("http://triton.invalid:8000")


@pytest.mark.parametrize(
    ("failure", "alone", "behind_a_service"),
    [
        (ConnectionLost("gone", answered=False), True, True),
        (ConnectionLost("gone", answered=True), False, False),
        (ConnectFailed("refused"), False, True),
        (AnswerTimeout("late"), False, False),
    ],
)
def test_a_refused_connection_is_tried_again_only_where_another_server_may_answer(
    failure: TransportError, alone: bool, behind_a_service: bool
) -> None:
    one = Triton("http://t", connections=2, connect_seconds=1)
    several = Triton("http://t", connections=2, connect_seconds=1, servers_url="http://all")
    assert (one.may_retry(failure), several.may_retry(failure)) == (alone, behind_a_service)


def test_the_end_of_a_server_may_cost_a_retry_for_each_connection() -> None:
    triton = Triton("http://t", connections=16, connect_seconds=1)
    assert [triton.take_retry() for _ in range(17)] == [True] * 16 + [False]


def test_the_setting_is_a_list_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TRITON_SERVERS_URL", "http://a:8000/,http://b:8000")
    assert Settings().triton_servers_url == "http://a:8000,http://b:8000"
    monkeypatch.setenv("GATEWAY_TRITON_SERVERS_URL", "http://a:8000,b")
    with pytest.raises(ValueError, match="triton_servers_url"):
        Settings()
