"""A start waits for neither the feature store nor the routing store more than a moment (I9)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serving_gateway import main
from serving_gateway.errors import StoreUnavailable
from serving_gateway.features.reader import FeatureReader
from serving_gateway.replication.file_store import FileStore
from serving_gateway.settings import Settings


async def hang(*_: object) -> Any:
    await asyncio.Event().wait()


async def start_and_stop(app: Any) -> list[str]:
    """Run the application's lifespan; the messages that it sends."""
    sent: asyncio.Queue[str] = asyncio.Queue()
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def send(message: dict[str, str]) -> None:
        sent.put_nowait(message["type"])

    asked.put_nowait({"type": "lifespan.startup"})
    running = asyncio.create_task(app({"type": "lifespan", "asgi": {}}, asked.get, send))
    found = [await asyncio.wait_for(sent.get(), 5)]
    asked.put_nowait({"type": "lifespan.shutdown"})
    found.append(await asyncio.wait_for(sent.get(), 5))
    await running
    return found


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_feature_store_that_hangs_does_not_delay_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "_START_SECONDS", 0.2)
    monkeypatch.setattr(FeatureReader, "prepare", hang)
    settings = Settings(state_dir=tmp_path, triton_url="http://127.0.0.1:9", feast_dir=tmp_path)
    assert await start_and_stop(main.create_app(settings).app) == COMPLETE


@pytest.mark.parametrize("fails", [True, False])
async def test_a_store_that_hangs_or_fails_does_not_delay_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async def fail(*_: object) -> Any:
        raise StoreUnavailable("it is down")

    monkeypatch.setattr(main, "_START_SECONDS", 0.2)
    monkeypatch.setattr(FileStore, "read_all", fail if fails else hang)
    settings = Settings(state_dir=tmp_path, triton_url="http://127.0.0.1:9")
    assert await start_and_stop(main.create_app(settings).app) == COMPLETE
