"""A release over HTTP: a whole gateway before a stub Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving_gateway.contract import (
    LATENCY_EDGES,
    MOST_STEPS,
    PhaseEvidence,
    ReleaseEvidence,
    RoutingRecord,
    VersionCounts,
)
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.release_counts import FileReleaseCounts
from tests.support.in_process_gateway import Heartbeat, run_in_process
from tests.support.releases import PLAN, SPLIT, ReleaseClient
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

STOP = {"reason": "it is wrong"}
LONGEST_STALL_SECONDS = 0.05
"""It is 19 ms, of which most is the call itself; the sums on the loop would take 85 ms."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ReleaseClient]:
    async with run_in_process(tmp_path) as running:
        found = ReleaseClient(running)
        await found.prepare()
        yield found


async def test_release_goes_through_its_steps_to_the_switch_and_is_watched(
    client: ReleaseClient,
) -> None:
    begun = await client.begin()
    assert begun.status_code == 200, begun.text
    assert begun.json()["release"]["by"] == "token:default"
    assert (await client.begin()).json()["changed"] is False
    assert await client.answers() == "A1"
    early = await client.switch()
    assert (early.status_code, early.json()["code"]) == (409, "release_not_cleared")
    assert "step 1 of 2" in early.json()["error"]
    assert (await client.advance()).json()["release"]["step"] == 1
    assert await client.answers() == "B2"
    assert (await client.advance()).json()["release"]["state"] == "waiting"
    assert "approval" in (await client.switch()).json()["error"]
    for is_new in (True, False):  # the second time as a client does whose answer was lost
        approved = await client.http.post("/release/approve", json={"reason": "looks good"})
        assert approved.json()["release"]["state"] == "cleared", approved.text
        assert approved.json()["changed"] is is_new
    switched = await client.switch()
    assert switched.status_code == 200, switched.text
    now = await client.routing()
    assert now["release"]["state"] == "watching"
    assert now["traffic"] == {"strategy": "mirror", "percent": 100.0, "salt": None}
    assert await client.answers() == "A2"
    assert (await client.advance()).json()["release"]["state"] == "completed"
    now = await client.routing()
    assert now["traffic"]["strategy"] == "off"
    acts = (await client.report())["release"]["acts"]
    assert [act["phase"] for act in acts] == ["0", "1", "1", "1", "watch"]
    text = (await client.http.get("/metrics")).text
    assert 'operation="release_advance",outcome="success"} 3' in text
    assert 'gateway_releases_total{model="m",state="completed"} 1' in text


async def test_stop_puts_a_back_and_while_watching_rolls_back(client: ReleaseClient) -> None:
    assert (await client.begin(SPLIT, approval="none")).status_code == 200
    assert await client.answers() == "B2"
    stopped = await client.stop()
    assert (stopped.status_code, stopped.json()["release"]["state"]) == (200, "stopped")
    assert await client.answers() == "A1"
    again = await client.stop()
    assert (again.status_code, again.json()["changed"]) == (200, False)
    late = await client.http.post("/release/stop", json={"reason": "another one's"})
    assert (late.status_code, late.json()["code"]) == (409, "release_ended")

    assert (await client.begin(SPLIT, approval="none")).status_code == 200
    await client.advance()
    assert (await client.switch()).status_code == 200
    client.triton.ready.discard(("m", 1))
    refused = await client.stop()
    assert (refused.status_code, refused.json()["code"]) == (409, "version_not_ready")
    assert await client.answers() == "A2"
    client.triton.ready.add(("m", 1))
    back = await client.stop()
    assert back.json()["release"]["state"] == "rolled_back", back.text
    assert await client.answers() == "A1"
    status = (await client.http.get("/models")).json()
    assert status["effective"]["A"]["mode"] == "pinned"
    refused = await client.begin()
    assert (refused.status_code, refused.json()["code"]) == (409, "variant_pinned")


async def test_only_a_stop_takes_effect_without_the_store_and_is_written_later(
    client: ReleaseClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.begin(SPLIT)
    assert await client.answers() == "B2"

    async def down(*_: Any) -> Any:
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "replace", down)
        refused = await client.advance()
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert await client.answers() == "B2"
        stopped = await client.stop()
        assert (stopped.status_code, stopped.json()["status"]) == (202, "stop_pending")
        assert await client.answers() == "A1"
        pending = await client.report()
        assert (pending["stop_pending"], pending["release"]["state"]) == (True, "running")
        patch.setattr(FileReleaseCounts, "read", down)
        patch.setattr(FileReleaseCounts, "put", down)
        alone = await client.report()
        assert alone["evidence_problem"] == "The disk is full."
        assert alone["evidence"]["phases"]["0"]["candidate"]["requests"] == 2, "its own"
    await client.wait_for("stopped")
    assert not (await client.report())["stop_pending"]
    assert (await client.report())["release"]["reason"] == STOP["reason"]


async def down(*_: Any) -> Any:
    raise StoreUnavailable("The disk is full.")


@pytest.mark.parametrize("switched", [False, True])
async def test_a_stop_that_is_not_written_outlives_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    kept = tmp_path / "pending-stop-m.json"
    stopped = "B1" if switched else "A1"
    with monkeypatch.context() as patch:
        async with run_in_process(tmp_path) as running:
            client = ReleaseClient(running)
            await client.prepare()
            await (client.watched() if switched else client.begin(SPLIT))
            assert await client.answers() == ("A2" if switched else "B2")
            patch.setattr(FileStore, "replace", down)
            assert (await client.stop()).status_code == 202
            assert await client.answers() == stopped
        async with run_in_process(tmp_path, reload=False) as running:
            client = ReleaseClient(running)
            assert await client.answers() == stopped, "from the first answer on"
            assert (await client.report())["stop_pending"]
    async with run_in_process(tmp_path, reload=False) as running:
        client = ReleaseClient(running)
        assert await client.answers() in {stopped, "A1"}
        found = await client.wait_for("rolled_back" if switched else "stopped")
        assert found["release"]["reason"] == STOP["reason"]
        assert found["release"]["acts"][-1]["by"] == "token:default", "who had asked for it"
        assert await client.answers() == "A1"
        await eventually(lambda: not kept.exists(), "the stop is no longer kept")


async def test_a_stop_of_a_watched_switch_takes_effect_without_the_store(
    client: ReleaseClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version before is B, mirrored and READY; it answers as B until A is rolled back."""
    await client.watched()
    assert await client.answers() == "A2"
    before = await client.report()
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "replace", down)
        assert (await client.stop()).json()["status"] == "stop_pending"
        for _ in range(3):
            assert await client.answers() == "B1"
        anonymous = await client.http.post("/predict", json={"data": [[1.0, 2.0]]})
        assert anonymous.json()["variant"] == "B"
        client.triton.ready.discard(("m", 2))
        async with asyncio.timeout(5):
            while (await client.http.get("/models")).json()["effective"]["A"]["ready"]:  # noqa: ASYNC110 -- over HTTP
                await asyncio.sleep(0.05)
        assert await client.answers() == "B1"
        assert (await client.http.get("/ready")).status_code == 200, "it answers by what it has"
        client.triton.ready.add(("m", 2))
        found = await client.report()
        assert (found["stop_pending"], found["release"]["state"]) == (True, "watching")
        sides = before["evidence"]["phases"].get("watch", {"candidate": {"requests": 0}})
        counted = found["evidence"]["phases"]["watch"]["candidate"]["requests"]
        assert counted == max(1, sides["candidate"]["requests"]), "these are B's"
    await client.wait_for("rolled_back")
    assert await client.answers() == "A1"


async def test_a_stop_that_cannot_be_kept_in_a_file_is_in_effect_all_the_same(
    client: ReleaseClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.begin(SPLIT)
    (tmp_path / "pending-stop-m.json").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "replace", down)
        assert (await client.stop()).status_code == 202
        assert await client.answers() == "A1"
    await client.wait_for("stopped")


async def test_a_kept_stop_that_cannot_be_read_keeps_no_gateway_from_its_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "pending-stop-m.json").write_text("{")
    async with run_in_process(tmp_path) as running:
        assert await ReleaseClient(running).answers() == "A1"


async def test_a_written_stop_that_the_store_lost_to_another_change_is_written_again(
    client: ReleaseClient, tmp_path: Path
) -> None:
    await client.begin(SPLIT)
    file = tmp_path / "routing-m.json"
    before = msgspec.json.decode(file.read_bytes(), type=RoutingRecord)
    assert (await client.stop()).status_code == 200
    generation = (await client.routing())["generation"]
    # What another replica wrote on what a failover had left, under the number of the stop.
    other = msgspec.structs.replace(before, generation=generation, reason="another change")
    staged = file.with_suffix(".test")
    staged.write_bytes(msgspec.json.encode(other))
    staged.replace(file)
    async with asyncio.timeout(10):
        while (await client.routing())["generation"] == generation:  # noqa: ASYNC110 -- over HTTP
            await asyncio.sleep(0.02)
    found = await client.wait_for("stopped")
    assert found["release"]["reason"] == STOP["reason"]
    assert (await client.routing())["traffic"]["strategy"] == "off"


async def test_a_wrong_call_says_what_is_wrong_and_changes_nothing(client: ReleaseClient) -> None:
    before = (await client.routing())["generation"]
    begin = {"version": 2, "run_id": "r2", "plan": PLAN}
    for path, body, status, field in (
        ("/release", begin | {"plan": {"steps": []}}, 422, "plan.steps"),
        ("/release", begin | {"plan": PLAN | {"guards": {"failures": 0}}}, 422, "plan.guards"),
        ("/release", {"version": 2}, 422, "run_id"),
        ("/release", begin | {"version": 9}, 409, None),
        ("/release/stop", {}, 422, "reason"),
        ("/release/stop", STOP, 404, None),
        ("/release/approve", {"reason": " "}, 404, None),
        ("/models/none/release/stop", STOP, 404, None),
    ):
        answer = await client.http.post(path, json=body)
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert (await client.routing())["generation"] == before


async def test_counts_of_many_processes_are_added_beside_the_event_loop(
    client: ReleaseClient, tmp_path: Path
) -> None:
    assert (await client.begin()).status_code == 200
    release_id = (await client.report())["release"]["id"]
    counts = VersionCounts(len(LATENCY_EDGES), 0, dict.fromkeys(range(len(LATENCY_EDGES)), 1))
    phases = {str(step): PhaseEvidence(counts, counts) for step in range(MOST_STEPS)}
    store = FileReleaseCounts(tmp_path)
    for process in range(64):
        evidence = ReleaseEvidence(release_id, phases)
        await store.put("m", str(process), evidence, has_ended=False)
    async with Heartbeat() as heartbeat:
        found = await client.report()
    assert found["evidence"]["phases"]["7"]["candidate"]["requests"] == 64 * len(LATENCY_EDGES)
    assert heartbeat.longest < LONGEST_STALL_SECONDS, heartbeat.longest


async def test_clock_that_was_ahead_delays_no_later_release(
    client: ReleaseClient, tmp_path: Path
) -> None:
    file = tmp_path / "routing-m.json"
    before = msgspec.json.decode(file.read_bytes(), type=RoutingRecord)
    ahead = msgspec.structs.replace(
        before, generation=before.generation + 1, changed_at="2090-01-01T00:00:00.000Z"
    )
    file.write_bytes(msgspec.json.encode(ahead))
    begun = (await client.begin(SPLIT, approval="none")).json()["release"]
    assert max(begun["since"], begun["started_at"]) < "2090"
    assert (await client.advance()).json()["release"]["since"] < "2090"
    assert (await client.switch()).status_code == 200
    now = await client.routing()
    assert (now["release"]["state"], now["changed_at"][:4]) == ("watching", "2090")
    assert now["release"]["since"] < "2090"
