"""`POST /outcomes`: what is kept, what is refused, and that predictions do not wait for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from serving_gateway.contract import MAX_OUTCOMES
from serving_gateway.errors import Overloaded
from serving_gateway.http.outcome_routes import OutcomeReceiver
from serving_gateway.settings import Settings
from serving_gateway.telemetry.outcome_writer import OutcomeWriter
from tests.support.in_process_gateway import Heartbeat, InProcessGateway, run_in_process

ONE = {"prediction_id": "p", "outcome": "yes"}

WRONG: list[tuple[Any, str]] = [
    ([ONE, {"outcome": 1}], "outcomes[1].prediction_id"),
    ([ONE, {"prediction_id": "p"}], "outcomes[1].outcome"),
    ([{**ONE, "prediction_id": ""}], "outcomes[0].prediction_id"),
    ([{**ONE, "prediction_id": 7}], "outcomes[0].prediction_id"),
    ([{**ONE, "row": -1}], "outcomes[0].row"),
    ([{**ONE, "outcome": None}], "outcomes[0].outcome"),
    ([{**ONE, "outcome": [1]}], "outcomes[0].outcome"),
    ([{**ONE, "observed_at": "2026-03-01T12:00:00"}], "outcomes[0].observed_at"),
    ([{**ONE, "at": 1}], "outcomes[0].at"),
    ([], "outcomes"),
    ([ONE] * (MAX_OUTCOMES + 1), "outcomes"),
]
"""Outcomes, and the field that is wrong."""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    async with run_in_process(tmp_path, sample_dir=tmp_path / "log") as running:
        yield running


async def _post(gateway: InProcessGateway, outcomes: Any, path: str = "/outcomes") -> Any:
    answer = await gateway.client.post(path, json={"outcomes": outcomes})
    return answer.status_code, answer.json()


def _kept(home: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in home.glob("log/*/outcomes/date=*/*.parquet"):
        rows += pq.ParquetFile(path).read().to_pylist()
    return rows


async def test_outcomes_are_in_a_file_when_the_caller_is_answered(
    tmp_path: Path, gateway: InProcessGateway
) -> None:
    more = {"prediction_id": "q", "row": 2, "outcome": 1.5, "observed_at": "2026-03-01T12:00:00Z"}

    for path in ("/outcomes", "/models/m/outcomes"):
        assert await _post(gateway, [ONE, more], path) == (
            200,
            {"model_name": "m", "accepted": 2},
        )

    kept = _kept(tmp_path)
    assert [(one["prediction_id"], one["row"], one["outcome"]) for one in kept] == [
        ("p", 0, "yes"),
        ("q", 2, "1.5"),
    ] * 2, "the same call again adds duplicates, which the join ignores"


async def test_wrong_outcome_is_refused_with_its_place(
    tmp_path: Path, gateway: InProcessGateway
) -> None:
    for outcomes, field in WRONG:
        status, body = await _post(gateway, outcomes)
        assert (status, body["field"]) == (422, field), body
    assert _kept(tmp_path) == [], "nothing of a refused call is kept"


async def test_outcomes_of_an_unknown_model_are_refused(gateway: InProcessGateway) -> None:
    status, body = await _post(gateway, [ONE], "/models/other/outcomes")

    assert (status, body["code"]) == (404, "unknown_model")


async def test_gateway_without_folder_says_what_to_do(tmp_path: Path) -> None:
    async with run_in_process(tmp_path) as gateway:
        status, body = await _post(gateway, [ONE])

    assert (status, body["code"]) == (409, "outcomes_not_kept")
    assert "GATEWAY_SAMPLE_DIR is not set" in body["error"]


async def test_outcomes_need_a_key_where_predictions_do(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with run_in_process(tmp_path, sample_dir=log, api_keys=("k" * 20,)) as gateway:
        status, _ = await _post(gateway, [ONE])
        gateway.client.headers["x-api-key"] = "k" * 20
        allowed, _ = await _post(gateway, [ONE])

    assert (status, allowed) == (401, 200)


@pytest.mark.parametrize("origins", ["*", "https://app.example.com"])
async def test_page_that_may_predict_writes_no_outcomes(tmp_path: Path, origins: str) -> None:
    log = tmp_path / "log"
    async with run_in_process(tmp_path, sample_dir=log, cors_origins=origins) as gateway:
        page = {"origin": "https://app.example.com"}
        answer = await gateway.client.post("/predict", json={"data": [[1, 2]]}, headers=page)
        assert answer.status_code == 200
        answer = await gateway.client.post("/outcomes", json={"outcomes": [ONE]}, headers=page)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        page["origin"] = f"http://127.0.0.1:{gateway.port}"
        answer = await gateway.client.post("/outcomes", json={"outcomes": [ONE]}, headers=page)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("application/json", 200)],
)
async def test_outcomes_are_json(gateway: InProcessGateway, content_type: str, status: int) -> None:
    """A page may send the others to another site without a question (a preflight)."""
    for path in ("/outcomes", "/models/m/outcomes"):
        answer = await gateway.client.post(
            path, content=json.dumps({"outcomes": [ONE]}), headers={"content-type": content_type}
        )
        assert answer.status_code == status


async def test_folder_that_cannot_be_written_is_answered_503(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a folder should be")
    async with run_in_process(tmp_path, sample_dir=tmp_path / "log") as gateway:
        answer = await gateway.client.post("/outcomes", json={"outcomes": [ONE]})

    assert (answer.status_code, answer.json()["code"]) == (503, "outcomes_not_written")
    assert answer.headers["retry-after"] == "10"


async def test_full_queue_is_answered_503_and_predictions_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, is_waiting = Future[None](), asyncio.Event()

    def hang(*_: Any) -> Future[None]:
        is_waiting.set()
        return writing

    monkeypatch.setattr(OutcomeWriter, "submit", hang)
    settings: dict[str, Any] = {
        "sample_dir": tmp_path / "log",
        "outcome_queue_bytes": 4_194_304,
    }
    async with run_in_process(tmp_path, **settings) as gateway:
        large = [{"prediction_id": "p" * 100, "outcome": "yes"}] * 6_000
        first = asyncio.create_task(_post(gateway, large))
        await asyncio.wait_for(is_waiting.wait(), 10)
        answer = await gateway.client.post("/outcomes", json={"outcomes": [ONE]})
        predicted = await gateway.client.post("/predict", json={"data": [[1.5, 2.5]]})
        writing.set_result(None)
        accepted, _ = await first

    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert (predicted.status_code, accepted) == (200, 200)


class _InstantWriter(OutcomeWriter):
    """Keeps nothing, and is done at once."""

    def submit(self, *_: Any) -> Future[None]:
        done = Future[None]()
        done.set_result(None)
        return done


def _receiver(home: Path) -> OutcomeReceiver:
    settings = Settings(state_dir=home)
    return OutcomeReceiver(_InstantWriter(home, "r", settings), settings)


async def test_calls_take_turns_that_leave_time_to_predictions(tmp_path: Path) -> None:
    receiver, body = _receiver(tmp_path), json.dumps({"outcomes": [ONE]}).encode()
    begin = time.monotonic()
    await asyncio.gather(*(receiver.accept("m", body) for _ in range(51)))
    small = time.monotonic() - begin
    large = json.dumps({"outcomes": [ONE] * 5_000}).encode()
    await asyncio.gather(*(receiver.accept("m", large) for _ in range(2)))

    assert small >= 50 * 0.002, "at most 500 calls a second"
    assert time.monotonic() - begin - small >= len(large) * 1e-7


async def test_call_that_would_wait_too_long_for_its_turn_is_refused(tmp_path: Path) -> None:
    receiver, body = _receiver(tmp_path), json.dumps({"outcomes": [ONE]}).encode()
    receiver._next_turn = asyncio.get_running_loop().time() + 60

    with pytest.raises(Overloaded, match="send more of them in one call"):
        await receiver.accept("m", body)


async def test_largest_call_does_not_hold_the_event_loop(gateway: InProcessGateway) -> None:
    body = json.dumps(
        {"outcomes": [{"prediction_id": f"p{n:024d}", "outcome": n} for n in range(10_000)]}
    )
    await _post(gateway, [ONE])  # what is imported or made once
    async with Heartbeat() as heartbeat:
        for _ in range(3):
            answer = await gateway.client.post("/outcomes", content=body)
            assert answer.status_code == 200, answer.text

    assert heartbeat.longest < 0.02, "CPU time, the client's own included"
