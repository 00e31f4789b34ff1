"""Stops of releases that another replica, or the switch itself, was faster than."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from serving_gateway.contract import (
    Release,
    ReleaseDecision,
    ReleasePlan,
    ReleaseState,
    RoutingRecord,
    Strategy,
    Traffic,
)
from serving_gateway.control import release_transitions, release_watch
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.control.release_watch import ReleaseWatch, watch_releases
from serving_gateway.control.transitions import next_generation
from serving_gateway.errors import Conflict, VersionNotReady
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.pending_stops import PendingStop, PendingStops
from serving_gateway.telemetry.counters import LabelledCounts
from tests.support.fake_triton import FakeTritonPlane
from tests.support.waiting import eventually

SPLIT = Traffic(Strategy.SPLIT, 100.0)
AT = "2026-01-01T00:00:00.000Z"
RELEASE = Release(
    "id", 2, "run-2", 1, ReleasePlan((SPLIT,)), ReleaseState.RUNNING, 0, AT, AT, "token:pipeline"
)


class Verifier:
    """Asks a Triton that has only version 2 READY."""

    def upstream_of(self, _: object) -> None:
        """Nothing is needed of it."""

    async def ready_versions(self, _: object) -> tuple[int, ...]:
        return (2,)

    async def require_ready(self, ready: tuple[int, ...], _: object, version: int) -> None:
        if version not in ready:
            raise VersionNotReady(f"version {version} is not READY")


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path) as one:
        one.route(SPLIT, release=RELEASE, A=1, B=2)
        yield one


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def control_of(plane: FakeTritonPlane, store: FileStore, home: Path) -> ReleaseControl:
    writer = RecordWriter(plane.router, store, LossReporter(LabelledCounts()))
    control = SimpleNamespace(
        router=plane.router,
        writer=writer,
        verifier=Verifier(),
        open_change=lambda *_, **__: contextlib.nullcontext(),
    )
    return ReleaseControl(cast(Any, control), PendingStops(home))


async def write(store: FileStore, base: RoutingRecord, changed: RoutingRecord) -> RoutingRecord:
    """What another replica writes."""
    now = datetime.now(UTC)
    written = next_generation(base, changed, now=now, by="another replica", reason=None)
    await store.replace(RoutingRecord("m"), written)
    return written


@pytest.mark.parametrize("next_release", [None, "another", "none"])
async def test_pending_stop_that_another_replica_was_faster_with_is_given_up(
    plane: FakeTritonPlane, store: FileStore, tmp_path: Path, next_release: str | None
) -> None:
    known, stops = plane.router.record, PendingStops(tmp_path)
    decision = ReleaseDecision("said to another replica", RELEASE.id)
    changed = release_transitions.stop(known, decision, AT, "an operator")
    if next_release is not None:
        release = None if next_release == "none" else replace(RELEASE, id="another")
        changed = replace(known, release=release)
    written = await write(store, known, changed)
    await stops.keep("m", PendingStop(RELEASE.id, "an operator", "said to this replica"))
    control = control_of(plane, store, tmp_path)
    await control.write_pending_stop()
    await plane.router.follow(written)
    await control.write_pending_stop()
    assert (await store.read("m")).generation == written.generation
    assert not plane.router.is_withdrawn
    if next_release is None:
        assert stops.read("m") is None


@pytest.mark.parametrize("is_pending", [False, True])
async def test_stop_is_refused_where_the_store_knows_of_a_switch_without_a_way_back(
    plane: FakeTritonPlane, store: FileStore, tmp_path: Path, is_pending: bool
) -> None:
    """This replica has not followed the switch yet; A's former version is not READY any more."""
    known = plane.router.record
    a, b = known.variants["A"], known.variants["B"]
    watched = replace(
        known,
        variants={"A": b, "B": a},
        traffic=Traffic(),
        release=replace(RELEASE, state=ReleaseState.WATCHING),
    )
    written = await write(store, known, watched)
    if is_pending:
        stop = PendingStop(RELEASE.id, "an operator", "it is bad")
        await PendingStops(tmp_path).keep("m", stop)
    control = control_of(plane, store, tmp_path)
    if is_pending:
        await control.write_pending_stop()
    else:
        with pytest.raises(VersionNotReady):
            await control.stop(ReleaseDecision("it is bad"), "an operator")
    assert (await store.read("m")).generation == written.generation
    assert plane.router.is_withdrawn is is_pending, "as before"


async def test_release_that_cannot_be_looked_after_is_counted_and_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(release_watch, "_EVERY_SECONDS", 0.05)
    seen: list[str] = []

    class Watch:
        def __init__(self, name: str) -> None:
            self.router = SimpleNamespace(model_name=name)

        async def protect(self) -> None:
            if self.router.model_name == "one":
                raise Conflict("one's trouble")
            seen.append("protected")

        async def look(self) -> None:
            if self.router.model_name == "two":
                raise RuntimeError("two's trouble")
            seen.append("looked at")

    def watches() -> Iterable[ReleaseWatch]:
        return [cast(ReleaseWatch, Watch(name)) for name in ("one", "two", "three")]

    failures: list[str] = []
    watching = asyncio.create_task(
        watch_releases(watches, asyncio.Event(), lambda: failures.append("one"))
    )
    await eventually(lambda: len(seen) >= 8)
    watching.cancel()
    assert seen[:4] == ["protected", "protected", "looked at", "looked at"]
    assert len(failures) >= 4
    assert {"one's trouble", "two's trouble"} <= {
        str(record.exc_info[1]) for record in caplog.records if record.exc_info
    }


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b'{"release_id":"\xff","by":"","reason":""}']
)
def test_kept_stop_that_is_damaged_is_logged_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "pending-stop-m.json").write_bytes(content)
    assert PendingStops(tmp_path).read("m") is None
    assert caplog.messages == ["a stop of a release cannot be read"]
