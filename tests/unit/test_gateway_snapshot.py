"""The copies of records that a replica starts from without the store."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from pydantic import SecretStr, ValidationError

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.redis_connection import RedisConnection
from serving_gateway.replication.snapshot import Snapshots
from serving_gateway.settings import Settings

RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


async def test_what_was_kept_last_is_read(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "deep" / "down")
    assert await snapshots.read_all() == {}
    await snapshots.keep(RECORD)
    newer = msgspec.structs.replace(RECORD, generation=2)
    await snapshots.keep(newer)
    assert await Snapshots(tmp_path / "deep" / "down").read("m") == newer
    assert await snapshots.read_all() == {"m": newer}


async def test_a_removed_model_has_no_snapshot(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    await snapshots.keep(RECORD)
    for _ in range(2):
        await snapshots.keep(RoutingRecord("m", 2, removed=True))
        assert not snapshots.path("m").exists()


async def test_a_snapshot_that_is_as_it_should_be_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Snapshots(tmp_path).keep(RECORD)
    monkeypatch.setattr(os, "fsync", None)
    await Snapshots(tmp_path).keep(RECORD)


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema":2}', b'{"schema":1,"model_name":"n"}'])
async def test_a_strange_snapshot_is_refused_and_does_not_affect_others(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.path("m").write_bytes(content)
    assert await snapshots.read("m") is None
    assert "a snapshot cannot be used" in caplog.text
    (logged,) = caplog.records
    assert "snapshot-m.json" in logged.__dict__["reason"]
    other = msgspec.structs.replace(RECORD, model_name="other")
    await snapshots.keep(other)
    assert await snapshots.read_all() == {"other": other}


async def test_a_crash_while_writing_leaves_the_old_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(tmp_path)
    await snapshots.keep(RECORD)

    def crash(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StoreUnavailable, match="disk full"):
        await snapshots.keep(msgspec.structs.replace(RECORD, generation=2))
    assert await snapshots.read("m") == RECORD


def test_a_wrong_address_of_redis_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_REDIS_URL", "http://somebody:s3cret@host")
    with pytest.raises(ValidationError, match="must start with one of redis") as caught:
        Settings()
    messages = [e["msg"] for e in caught.value.errors(include_input=False, include_url=False)]
    assert "s3cret" not in str(messages)
    monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://somebody:s3cret@host")
    assert "s3cret" not in repr(Settings())


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cr/et@host:6379/0",
        "redis://:1234/s3cret@host:6379/0",
        "redis://user:1234/s3cret@host/0",
        "redis://:s3cret?x@host",
        "redis://:s3cret#x@host",
        "redis://:s3cret]x@[host",
    ],
)
def test_a_password_that_is_not_percent_encoded_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("GATEWAY_REDIS_URL", url)
    with pytest.raises(ValidationError, match="percent-encode") as caught:
        Settings()
    shown = f"{caught.value} {caught.value!r}"
    assert "s3cr" not in shown
    assert "1234" not in shown
    with pytest.raises(ValueError, match="percent-encode") as refused:
        RedisConnection(SecretStr(url))
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None
