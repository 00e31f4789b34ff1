"""Which variant answers, and what happens when the table changes under a request.

The moment cannot be hit on purpose with real servers; that switches and retirements under load
fail no request is tested on them in test_gateway_faults.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import (
    DType,
    Feature,
    Mode,
    RoutingRecord,
    Signature,
    Slot,
    Strategy,
    Traffic,
)
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    Overloaded,
    TritonUnavailable,
    VariantUnavailable,
)
from serving_gateway.inference.prediction import Prediction
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.stub_model import SIGNATURE
from tests.support.waiting import eventually

SPLIT = Traffic(Strategy.SPLIT, 100)
BODY = b'{"data":[[1.5,2.5]],"client_id":"c"}'


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path, request_seconds=0.4) as one:
        yield one


async def answer(outcome: Outcome) -> Any:
    return json.loads(await outcome)


async def test_request_whose_version_is_retired_meanwhile_gets_the_next(
    plane: FakeTritonPlane,
) -> None:
    plane.route(A=1)
    plane.triton.holds.add(1)
    outcome = plane.predict(BODY)
    plane.route(A=2)
    plane.triton.errors[1] = VariantUnavailable("retired")
    plane.triton.calls[0].answer()
    response = await answer(outcome)
    assert (response["version"], response["generation"], response["predictions"]) == (2, 2, [2])
    assert plane.woken == 1


@pytest.mark.parametrize("moves_on", [False, True])
async def test_version_that_is_gone_without_a_successor_is_reported(
    plane: FakeTritonPlane, moves_on: bool
) -> None:
    plane.route(A=1)
    plane.triton.errors |= {1: VariantUnavailable("retired"), 2: VariantUnavailable("retired too")}
    plane.triton.holds.add(1)
    outcome = plane.predict(BODY)
    if moves_on:
        plane.route(A=2)
    plane.triton.calls[0].answer()
    with pytest.raises(VariantUnavailable, match="retired too" if moves_on else "retired"):
        await outcome
    assert plane.triton.asked == ([1, 2] if moves_on else [1])


@pytest.mark.parametrize(
    "error",
    [BadUpstreamAnswer("no"), TritonUnavailable("no"), InferenceRefused("no")],
)
async def test_newest_version_answers_only_what_a_retired_one_could_not(
    plane: FakeTritonPlane, error: GatewayError
) -> None:
    plane.route(A=1)
    plane.triton.holds.add(1)
    outcome = plane.predict(BODY)
    plane.route(A=2)
    plane.triton.errors[1] = error
    plane.triton.calls[0].answer()
    with pytest.raises(type(error)):
        await outcome
    assert plane.triton.asked == [1]


async def test_version_that_the_client_named_has_no_substitute(plane: FakeTritonPlane) -> None:
    plane.route(A=1)
    plane.triton.holds.add(1)
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
    outcome = plane.infer(body, version=1)
    plane.route(A=2)
    plane.triton.errors[1] = VariantUnavailable("retired")
    plane.triton.calls[0].answer()
    with pytest.raises(VariantUnavailable):
        await outcome


async def test_older_record_is_never_adopted(plane: FakeTritonPlane) -> None:
    for version in (1, 2, 3):
        plane.route(A=version)
    record = plane.router.table.record
    plane.route(A=4)
    plane.router.adopt(record)
    assert plane.router.still_served() == {"A": 4}


@pytest.mark.parametrize(("most", "merged"), [(3, 3), (1024, 64), (0, 1)])
async def test_no_more_rows_are_merged_than_the_version_takes(
    plane: FakeTritonPlane, most: int, merged: int
) -> None:
    features = (Feature("a", DType.FP32), Feature("b", DType.FP32))
    plane.route(signatures={"A": Signature(features, "x", max_batch_rows=most)}, A=9)
    assert plane.router.table.production is not None
    batcher = plane.router.table.production.client.batcher
    assert batcher is not None
    assert batcher.max_rows == merged


@pytest.mark.parametrize(
    "error",
    [
        TritonUnavailable("gone"),
        VariantUnavailable("gone"),
        BadUpstreamAnswer("odd"),
        InferenceRefused("refused"),
        Overloaded("busy"),
        DeadlineExceeded("late"),
    ],
)
async def test_a_answers_what_b_cannot(plane: FakeTritonPlane, error: GatewayError) -> None:
    plane.route(SPLIT, A=1, B=2)
    assert (await answer(plane.predict(BODY)))["variant"] == "B"
    plane.triton.errors[2] = error
    response = await answer(plane.predict(BODY))
    assert (response["variant"], response["predictions"]) == ("A", [1])
    assert error.message in response["fallback"]
    assert plane.metrics.fallbacks.value == 1


async def test_a_answers_within_the_deadline_when_b_hangs(plane: FakeTritonPlane) -> None:
    plane.route(SPLIT, A=1, B=2)
    plane.triton.holds.add(2)
    response = await answer(plane.predict(BODY))
    assert response["variant"] == "A"
    assert plane.triton.calls[0].abandoned == [True]
    of_b, of_a = plane.triton.deadlines
    assert of_a - of_b > 0.1, "there is time left for A"


async def test_late_answer_of_b_is_not_taken_for_that_of_a(plane: FakeTritonPlane) -> None:
    plane.route(SPLIT, A=1, B=2)
    plane.triton.holds |= {1, 2}
    outcome = plane.predict(BODY)
    await eventually(lambda: len(plane.triton.calls) == 2)
    late, own = plane.triton.calls
    late.abandoned.clear()  # the answer was on its way
    late.answer()
    own.answer()
    response = await answer(outcome)
    assert (response["variant"], response["version"], response["predictions"]) == ("A", 1, [1])


async def test_late_answer_reaches_those_that_still_wait_for_it(plane: FakeTritonPlane) -> None:
    plane.route(SPLIT, A=1, B=2)
    plane.triton.holds.add(2)
    for _ in range(2):
        plane.predict(BODY)
    early = plane.predict(b'{"data":[[3,0]],"client_id":"c"}')
    await asyncio.sleep(0.1)
    later = plane.predict(b'{"data":[[4,0]],"client_id":"c"}')
    plane.triton.calls[0].answer()
    assert len(plane.triton.calls) == 3
    response = await answer(early)
    assert (response["variant"], response["probabilities"][0][0]) == ("A", 3)
    plane.triton.calls[2].answer()
    response = await answer(later)
    assert (response["variant"], response["probabilities"][0][0]) == ("B", 4)


async def test_a_answers_valid_rows_that_do_not_fit_b(plane: FakeTritonPlane) -> None:
    wider = Signature(tuple(Feature(name, DType.FP32) for name in "abc"), packed_input="x")
    plane.route(SPLIT, {"B": wider}, A=1, B=2)
    response = await answer(plane.predict(BODY))
    assert (response["variant"], response["version"]) == ("A", 1)
    with pytest.raises(InvalidInput, match="reads 2"):
        await plane.predict(b'{"data":[[1]],"client_id":"c"}')


async def test_share_of_a_variant_without_a_version_goes_to_the_other(
    plane: FakeTritonPlane,
) -> None:
    with pytest.raises(VariantUnavailable) as caught:
        await plane.predict(BODY)
    assert caught.value.code == "no_effective_version"
    plane.route(SPLIT, A=1)
    assert (await answer(plane.predict(BODY)))["variant"] == "A"


async def test_requests_wait_for_their_deadline_and_no_longer(plane: FakeTritonPlane) -> None:
    plane.route(A=1)
    plane.triton.holds.add(1)
    started = asyncio.get_running_loop().time()
    outcomes = [plane.predict(BODY) for _ in range(5)]
    for outcome in outcomes:
        with pytest.raises(DeadlineExceeded):
            await outcome
    assert 0.35 < asyncio.get_running_loop().time() - started < 2
    await eventually(lambda: plane.queue_budget.held == 0)


async def test_abandoned_request_leaves_the_queue_at_once(plane: FakeTritonPlane) -> None:
    plane.route(A=1)
    plane.triton.holds.add(1)
    outcomes = [Outcome() for _ in range(10)]
    waiting = [plane.predictor.submit(BODY, outcome) for outcome in outcomes]
    assert plane.queue_budget.held > 0
    for prediction in waiting[2:]:
        prediction.abandon()
    assert plane.queue_budget.held == 0
    for call in plane.triton.calls:
        call.answer()
    assert len(plane.triton.calls) == 2
    assert [outcome.ended.done() for outcome in outcomes] == [True] * 2 + [False] * 8


@pytest.mark.parametrize("method", ["send", "_queue", "encode", "answer"])
@pytest.mark.parametrize("large_from", [0, 65_536])
async def test_bug_in_any_step_of_a_request_is_its_answer(
    plane: FakeTritonPlane,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    large_from: int,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    for module in ("dispatcher", "offload", "prediction", "version_client"):
        monkeypatch.setattr(f"serving_gateway.inference.{module}.LARGE_BYTES", large_from)
    monkeypatch.setattr(Prediction, method, fail)
    plane.route(A=1)
    with pytest.raises(GatewayError) as caught:
        await plane.predict(BODY)
    assert (caught.value.status, caught.value.code) == (500, "internal_error")
    assert "RuntimeError: a bug" in caplog.text
    monkeypatch.undo()
    assert (await answer(plane.predict(BODY)))["predictions"] == [1]


async def test_request_for_a_version_that_is_not_ready_has_triton_asked_about_it(
    plane: FakeTritonPlane,
) -> None:
    plane.route(A=1)
    plane.triton.version("m", 1).ready = False
    with pytest.raises(VariantUnavailable):
        await plane.predict(BODY)
    assert (plane.probed, plane.woken, plane.triton.calls) == (1, 0, [])


class SlowProbes:
    """Versions whose probes are counted, and wait until the test lets them end."""

    def __init__(self, plane: FakeTritonPlane, *versions: int) -> None:
        self.gate = asyncio.Event()
        self.asked: list[int] = []
        for version in versions:
            state: Any = plane.triton.version("m", version)
            state.probe = partial(self._probe, version)

    async def _probe(self, version: int, _: float) -> None:
        self.asked.append(version)
        await self.gate.wait()


def routing(generation: int, **versions: int) -> RoutingRecord:
    slots = {
        alias: Slot(version, "run", "registry", Mode.SSOT, SIGNATURE)
        for alias, version in versions.items()
    }
    return RoutingRecord("m", generation, slots)


async def test_b_that_does_not_answer_does_not_delay_the_first_a(plane: FakeTritonPlane) -> None:
    probes = SlowProbes(plane, 2)
    async with asyncio.timeout(2):
        await plane.router.follow(routing(1, A=1, B=2))
    assert plane.router.still_served() == {"A": 1, "B": 2}
    assert probes.asked == []


async def test_new_version_is_asked_about_before_clients_meet_it(plane: FakeTritonPlane) -> None:
    await plane.router.follow(routing(1, A=1))
    probes = SlowProbes(plane, 2)
    following = asyncio.create_task(plane.router.follow(routing(2, A=1, B=2)))
    await eventually(lambda: probes.asked)
    assert plane.router.still_served() == {"A": 1}
    probes.gate.set()
    await following
    assert plane.router.still_served() == {"A": 1, "B": 2}
