"""A release over HTTP: a whole gateway before a stub Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.file_store import FileStore
from tests.support.in_process_gateway import TOKEN, InProcessGateway, run_in_process

PLAN: dict[str, Any] = {
    "steps": [{"strategy": "mirror", "percent": 100}, {"strategy": "split", "percent": 100}],
    "guardrails": {"failures": 0.005, "disagreement": 0.05},
    "approval": "before_switch",
}
STOP = {"reason": "it is wrong"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with run_in_process(tmp_path) as running:
        running.client.headers["authorization"] = f"Bearer {TOKEN}"
        unpinned = {"version": 1, "run_id": "r", "mode": "ssot", "unpin": True}
        answer = await running.client.post("/variant/A/reload", json=unpinned)
        assert answer.status_code == 200, answer.text
        yield running


async def begin(gateway: InProcessGateway, **plan: Any) -> httpx.Response:
    body = {"version": 2, "run_id": "r2", "plan": PLAN | plan}
    return await gateway.client.post("/release", json=body)


async def report(gateway: InProcessGateway) -> Any:
    answer = await gateway.client.get("/models/m/release")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def advance(gateway: InProcessGateway, verdict: str = "go") -> httpx.Response:
    now = (await report(gateway))["release"]
    body = {name: now[name] for name in ("id", "state", "step")}
    body |= {"verdict": verdict, "reason": "0 of 500 failed"}
    return await gateway.client.post("/models/m/release/advance", json=body)


async def switch(gateway: InProcessGateway) -> httpx.Response:
    body = {"version": 2, "run_id": "r2", "mode": "ssot"}
    return await gateway.client.post("/variant/A/reload", json=body)


async def answers(gateway: InProcessGateway) -> str:
    body = {"data": [[1.0, 2.0]], "client_id": "c"}
    answer = await gateway.client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    return f"{answer.json()['variant']}{answer.json()['version']}"


async def routing(gateway: InProcessGateway) -> Any:
    return (await gateway.client.get("/models")).json()["routing"]


async def test_release_goes_through_its_steps_to_the_switch_and_is_watched(
    gateway: InProcessGateway,
) -> None:
    begun = await begin(gateway)
    assert begun.status_code == 200, begun.text
    assert begun.json()["release"]["by"] == "token:default"
    assert (await begin(gateway)).json()["changed"] is False
    assert await answers(gateway) == "A1"
    early = await switch(gateway)
    assert (early.status_code, early.json()["code"]) == (409, "release_not_cleared")
    assert "step 1 of 2" in early.json()["error"]
    assert (await advance(gateway)).json()["release"]["step"] == 1
    assert await answers(gateway) == "B2"
    assert (await advance(gateway)).json()["release"]["state"] == "waiting"
    assert "approval" in (await switch(gateway)).json()["error"]
    approved = await gateway.client.post("/release/approve", json={"reason": "looks good"})
    assert approved.json()["release"]["state"] == "cleared", approved.text
    switched = await switch(gateway)
    assert switched.status_code == 200, switched.text
    now = await routing(gateway)
    assert now["release"]["state"] == "watching"
    assert now["traffic"] == {"strategy": "mirror", "percent": 100.0, "salt": None}
    assert await answers(gateway) == "A2"
    assert (await advance(gateway)).json()["release"]["state"] == "completed"
    now = await routing(gateway)
    assert now["traffic"]["strategy"] == "off"
    acts = (await report(gateway))["release"]["acts"]
    assert [act["phase"] for act in acts] == ["0", "1", "1", "1", "watch"]
    text = (await gateway.client.get("/metrics")).text
    assert 'operation="release_advance",outcome="success"} 3' in text
    assert 'gateway_releases_total{model="m",state="completed"} 1' in text


async def test_stop_puts_a_back_and_while_watching_rolls_back(gateway: InProcessGateway) -> None:
    assert (await begin(gateway, steps=PLAN["steps"][1:], approval="none")).status_code == 200
    assert await answers(gateway) == "B2"
    stopped = await gateway.client.post("/release/stop", json=STOP)
    assert (stopped.status_code, stopped.json()["release"]["state"]) == (200, "stopped")
    assert await answers(gateway) == "A1"
    again = await gateway.client.post("/release/stop", json=STOP)
    assert (again.status_code, again.json()["code"]) == (409, "release_ended")

    assert (await begin(gateway, approval="none", steps=PLAN["steps"][1:])).status_code == 200
    await advance(gateway)
    assert (await switch(gateway)).status_code == 200
    gateway.triton.ready.discard(("m", 1))
    refused = await gateway.client.post("/release/stop", json=STOP)
    assert (refused.status_code, refused.json()["code"]) == (409, "version_not_ready")
    assert await answers(gateway) == "A2"
    gateway.triton.ready.add(("m", 1))
    back = await gateway.client.post("/release/stop", json=STOP)
    assert back.json()["release"]["state"] == "rolled_back", back.text
    assert await answers(gateway) == "A1"
    status = (await gateway.client.get("/models")).json()
    assert status["effective"]["A"]["mode"] == "pinned"
    refused = await begin(gateway)
    assert (refused.status_code, refused.json()["code"]) == (409, "variant_pinned")


async def test_only_a_stop_takes_effect_without_the_store_and_is_written_later(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(gateway, steps=PLAN["steps"][1:])
    assert await answers(gateway) == "B2"

    async def down(*_: Any) -> Any:
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "replace", down)
        refused = await advance(gateway)
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert await answers(gateway) == "B2"
        stopped = await gateway.client.post("/release/stop", json=STOP)
        assert (stopped.status_code, stopped.json()["status"]) == (202, "stop_pending")
        assert await answers(gateway) == "A1"
        pending = await report(gateway)
        assert (pending["stop_pending"], pending["release"]["state"]) == (True, "running")
    await wait_for_state(gateway, "stopped")
    assert not (await report(gateway))["stop_pending"]
    assert (await report(gateway))["release"]["reason"] == STOP["reason"]


async def wait_for_state(gateway: InProcessGateway, state: str) -> None:
    for _ in range(500):
        if (await report(gateway))["release"]["state"] == state:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await report(gateway))


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/release", {"version": 2, "run_id": "r2", "plan": {"steps": []}}, 422, "plan.steps"),
        ("/release", {"version": 2}, 422, "run_id"),
        ("/release", {"version": 9, "run_id": "r", "plan": PLAN}, 409, None),
        ("/release/stop", {}, 422, "reason"),
        ("/release/stop", STOP, 404, None),
        ("/release/approve", {"reason": " "}, 404, None),
        ("/models/none/release/stop", STOP, 404, None),
    ],
)
async def test_a_wrong_call_says_what_is_wrong_and_changes_nothing(
    gateway: InProcessGateway, path: str, body: Any, status: int, field: str | None
) -> None:
    before = (await routing(gateway))["generation"]
    answer = await gateway.client.post(path, json=body)
    assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    assert (await routing(gateway))["generation"] == before


async def test_a_change_of_a_release_needs_the_control_token(gateway: InProcessGateway) -> None:
    del gateway.client.headers["authorization"]
    assert (await begin(gateway)).status_code == 401
    for act in ("advance", "approve", "stop"):
        assert (await gateway.client.post(f"/release/{act}", json={})).status_code == 401
    assert (await gateway.client.get("/release")).status_code == 200
