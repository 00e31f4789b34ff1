"""What a replica does for a release by itself: end it when time is short, and keep its counts.

A whole gateway before a stub Triton; that both hold on real servers with two replicas is tested in
test_gateway_releases.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving_gateway.control import release_watch
from tests.support.in_process_gateway import run_in_process
from tests.support.releases import MIRROR, SPLIT, ReleaseClient
from tests.support.stub_model import StubModel

pytestmark = pytest.mark.slow


class FailingModel(StubModel):
    """Fails at some versions as a broken backend does."""

    fails: frozenset[int] = frozenset()

    def answer(self, version: int, body: bytes) -> tuple[int, int | None, bytes]:
        if version in self.fails:
            return 500, None, b'{"error":"the backend failed"}'
        return super().answer(version, body)


@pytest.fixture
def rare_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a failure has a release looked after in time."""
    monkeypatch.setattr(release_watch, "_EVERY_SECONDS", 60)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ReleaseClient]:
    async with run_in_process(tmp_path) as running:
        running.triton.model = FailingModel()
        found = ReleaseClient(running)
        await found.prepare()
        yield found


def break_version(client: ReleaseClient, version: int) -> None:
    assert isinstance(client.triton.model, FailingModel)
    client.triton.model.fails = frozenset({version})


async def test_a_failing_candidate_loses_its_share_without_a_failed_request(
    rare_looks: None, client: ReleaseClient
) -> None:
    await client.begin(SPLIT)
    for _ in range(20):
        assert await client.answers() == "B2"
    break_version(client, 2)
    for _ in range(60):
        assert await client.answers() == "A1", "A answers what B cannot"
    found = await client.wait_for("stopped")
    release = found["release"]
    assert "version 2 failed" in release["reason"]
    assert release["acts"][-1]["by"].startswith("replica:")
    candidate = found["evidence"]["phases"]["0"]["candidate"]
    assert candidate["failed"] <= 60
    assert (await client.routing())["traffic"]["strategy"] == "off"


async def test_a_candidate_that_triton_loses_ends_its_release(client: ReleaseClient) -> None:
    await client.begin(MIRROR)
    client.triton.ready.discard(("m", 2))
    found = await client.wait_for("stopped")
    assert "has not been READY for" in found["release"]["reason"]


async def test_a_release_goes_on_after_triton_was_gone(client: ReleaseClient) -> None:
    await client.begin(SPLIT)
    assert await client.answers() == "B2"
    client.triton.die()
    for _ in range(30):
        assert (await client.predict()).status_code == 503
        await asyncio.sleep(0.1)  # longer than a version may be away alone
    await client.triton.start()
    async with asyncio.timeout(10):
        while (await client.predict()).status_code != 200:  # noqa: ASYNC110 -- over HTTP
            await asyncio.sleep(0.05)
    found = await client.report()
    assert found["release"]["state"] == "running", found["release"]["reason"]
    failed = [
        side["failed"]
        for side in found["evidence"]["phases"]["0"].values()
        if isinstance(side, dict)
    ]
    assert sum(failed) <= 4, "but for those that met the end itself"


async def test_a_release_goes_on_after_triton_did_not_answer(tmp_path: Path) -> None:
    async with run_in_process(tmp_path, request_seconds=0.4) as running:
        client = ReleaseClient(running)
        await client.prepare()
        await client.begin(SPLIT)
        for _ in range(5):
            assert await client.answers() == "B2"
        client.triton.hangs = True
        # More than may fail in a row, before Triton counts as silent.
        answers = await asyncio.gather(*(client.predict() for _ in range(30)))
        assert {answer.status_code for answer in answers} <= {503, 504}
        client.triton.hangs = False
        client.triton.close_connections()
        async with asyncio.timeout(10):
            while (await client.predict()).status_code != 200:  # noqa: ASYNC110 -- over HTTP
                await asyncio.sleep(0.05)
        for _ in range(5):
            assert await client.answers() in {"A1", "B2"}
        found = await client.report()
        assert found["release"]["state"] == "running", found["release"]["reason"]


@pytest.mark.parametrize("how", ["fails", "is gone"])
async def test_a_new_production_at_fault_is_rolled_back_and_pinned(
    client: ReleaseClient, how: str
) -> None:
    await client.watched()
    for _ in range(40):
        assert await client.answers() == "A2"
    if how == "fails":
        break_version(client, 2)
        for _ in range(30):
            await client.predict()
    else:
        client.triton.ready.discard(("m", 2))
    found = await client.wait_for("rolled_back")
    assert "version 2" in found["release"]["reason"]
    assert await client.answers() == "A1"
    assert (await client.http.get("/models")).json()["effective"]["A"]["mode"] == "pinned"


async def test_counts_outlive_the_process_that_counted(tmp_path: Path) -> None:
    async with run_in_process(tmp_path) as running:
        client = ReleaseClient(running)
        await client.prepare()
        await client.begin(SPLIT)
        for _ in range(7):
            await client.predict()
        before = await client.report()
    async with run_in_process(tmp_path, reload=False) as running:
        client = ReleaseClient(running)
        async with asyncio.timeout(20):  # on a busy machine A answers until B was looked at
            while not (await client.http.get("/models")).json()["effective"]["B"]["ready"]:  # noqa: ASYNC110 -- over HTTP
                await asyncio.sleep(0.02)
        assert await client.answers() == "B2", "the release goes on"
        after = await client.report()
    assert after["evidence"]["phases"]["0"]["candidate"]["requests"] == 8
    assert after["release"] == before["release"]
    assert len(after["replicas"]) == 2
    assert set(before["replicas"]) < set(after["replicas"])
