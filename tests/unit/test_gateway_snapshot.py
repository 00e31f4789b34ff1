"""The copy of the record that a replica starts from without the store."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from serving_gateway.contract import Mode, RoutingRecord, Slot
from serving_gateway.errors import RecordRefused, StoreUnavailable
from serving_gateway.replication.snapshot import Snapshot
from serving_gateway.settings import Settings

RECORD = RoutingRecord(
    model_name="m",
    generation=1,
    variants={"A": Slot(3, "run", "registry", Mode.SSOT)},
)


async def test_what_was_kept_last_is_read(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "deep" / "down", "m")
    assert await snapshot.read() is None
    await snapshot.keep(RECORD)
    newer = msgspec.structs.replace(RECORD, generation=2)
    await snapshot.keep(newer)
    assert await Snapshot(tmp_path / "deep" / "down", "m").read() == newer


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema":2}', b'{"schema":1,"model_name":"n"}'])
async def test_a_strange_snapshot_is_refused(tmp_path: Path, content: bytes) -> None:
    snapshot = Snapshot(tmp_path, "m")
    snapshot.path.write_bytes(content)
    with pytest.raises(RecordRefused, match=r"snapshot-m\.json"):
        await snapshot.read()


async def test_a_crash_while_writing_leaves_the_old_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot(tmp_path, "m")
    await snapshot.keep(RECORD)

    def crash(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(StoreUnavailable, match="disk full"):
        await snapshot.keep(msgspec.structs.replace(RECORD, generation=2))
    assert await snapshot.read() == RECORD


def test_a_wrong_address_of_redis_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATEWAY_REDIS_URL", "http://somebody:s3cret@host")
    with pytest.raises(ValidationError, match="must start with one of redis") as caught:
        Settings()
    messages = [e["msg"] for e in caught.value.errors(include_input=False, include_url=False)]
    assert "s3cret" not in str(messages)
    monkeypatch.setenv("GATEWAY_REDIS_URL", "redis://somebody:s3cret@host")
    assert "s3cret" not in repr(Settings())
