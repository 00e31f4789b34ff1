"""Copies for variant B: never on the client's time, compared with what A answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, RoutedVersion, Signature, Strategy, Traffic
from serving_gateway.errors import BadUpstreamAnswer, GatewayError, TritonUnavailable
from tests.support.fake_triton import FakeTritonPlane
from tests.support.stub_model import SIGNATURE
from tests.support.waiting import eventually

MIRROR = Traffic(Strategy.MIRROR, 100)


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path) as one:
        one.route(MIRROR, A=1, B=2)
        yield one


async def predicted(plane: FakeTritonPlane, *firsts: float) -> Any:
    return json.loads(
        await plane.predict(json.dumps({"data": [[one, 0] for one in firsts]}).encode())
    )


def counts(plane: FakeTritonPlane) -> dict[str, int]:
    return {name: count.value for name, count in plane.mirror.counts.items() if count.value}


async def test_copy_has_the_rows_of_the_request_and_its_answer_is_compared(
    plane: FakeTritonPlane,
) -> None:
    response = await predicted(plane, 1.5, 2.5)
    assert response["variant"] == "A"
    await eventually(lambda: plane.ledger.page.requests == 1)
    ours, theirs = plane.triton.model.seen
    assert ours.inputs == theirs.inputs
    comparison = plane.ledger.page
    assert (comparison.rows, comparison.agreed) == (2, 0), "the label is the version"
    assert counts(plane) == {"disagreed": 1}


async def test_copies_go_together_and_are_compared_row_by_row(tmp_path: Path) -> None:
    with FakeTritonPlane(tmp_path, mirror_gather_seconds=0.05) as plane:
        plane.route(MIRROR, A=1, B=1)
        for first in (1.0, 2.0, 3.0):
            await predicted(plane, first)
        await eventually(lambda: plane.ledger.page.requests == 3)
        assert [one.rows for one in plane.triton.model.seen] == [1, 1, 1, 3]
        # The second score is the rows of the whole inference, so that only the labels agree.
        assert plane.ledger.page.agreed == 3


@pytest.mark.parametrize("problem", [TritonUnavailable("gone"), BadUpstreamAnswer("odd")])
async def test_copy_that_fails_is_counted_and_the_next_one_is_made(
    plane: FakeTritonPlane, problem: GatewayError
) -> None:
    plane.triton.errors[2] = problem
    for count in (1, 2):
        assert (await predicted(plane, 1.0))["predictions"] == [1]
        await eventually(lambda count=count: plane.ledger.page.failed == count)  # type: ignore[misc]
    assert plane.ledger.page.requests == 0
    plane.triton.errors.clear()
    await predicted(plane, 1.0)
    await eventually(lambda: plane.ledger.page.requests == 1)


async def test_only_the_copies_that_do_not_fit_fail(tmp_path: Path) -> None:
    with FakeTritonPlane(tmp_path, mirror_gather_seconds=0.05) as plane:
        plane.route(MIRROR, A=1, B=2)
        for first in (1.0, 2.0, 3.0):
            await predicted(plane, first)
        plane.triton.model.refused.add(2.0)
        page = plane.ledger.page
        await eventually(lambda: page.requests + page.failed == 3)
        assert (page.requests, page.failed) == (2, 1)


async def test_answer_of_a_former_pairing_does_not_reach_the_page_of_the_next(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.holds.add(2)
    await predicted(plane, 1.0)
    await eventually(lambda: len(plane.triton.calls) == 2)
    former = plane.ledger.page
    page = plane.ledger.open(
        (RoutedVersion("m", 1, "r"), RoutedVersion("m", 3, "r")), lambda: "now"
    )
    plane.triton.calls[-1].answer()
    await eventually(lambda: former.requests == 1)
    assert page.requests == 0
    assert plane.ledger.page is page


async def test_late_answer_of_a_former_generation_leaves_the_present_page_alone(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.holds.add(1)
    late = plane.predict(b'{"data":[[1,0]]}')
    plane.route(MIRROR, A=3, B=2)
    await predicted(plane, 1.0)
    await eventually(lambda: plane.ledger.page.requests == 1)
    page = plane.ledger.page
    plane.triton.calls[0].answer()
    await late
    assert plane.ledger.page is page
    assert page.requests == 1


async def test_a_slow_b_delays_nothing_and_holds_a_bounded_number_of_copies(
    tmp_path: Path,
) -> None:
    with FakeTritonPlane(tmp_path, mirror_queue=5, mirror_in_flight=1) as plane:
        plane.route(MIRROR, A=1, B=2)
        plane.triton.holds.add(2)
        for _ in range(20):
            assert (await predicted(plane, 1.0))["version"] == 1
        assert counts(plane) == {"dropped": 20 - 5 - 1}


async def test_copies_are_bounded_in_bytes(tmp_path: Path) -> None:
    names = [f"f{at}" for at in range(30)]
    wide = Signature(tuple(Feature(name, DType.FP32) for name in names), packed_input="x")
    with FakeTritonPlane(tmp_path, mirror_queue_bytes=2**20, mirror_in_flight=1) as plane:
        plane.route(MIRROR, {"A": wide, "B": wide}, A=1, B=2)
        plane.triton.holds.add(2)
        body = json.dumps({"data": [[0.5] * 30] * 200}).encode()
        for _ in range(9):
            await plane.predict(body)
        assert 0 < plane.mirror_budget.held <= 2**20
        assert counts(plane)["dropped"] == 9 - 1 - 3


@pytest.mark.parametrize("other", [SIGNATURE, "reordered"])
async def test_copy_is_encoded_by_the_signature_of_b(tmp_path: Path, other: Any) -> None:
    if other == "reordered":
        other = Signature(SIGNATURE.features[::-1], packed_input="x")
    with FakeTritonPlane(tmp_path) as plane:
        plane.route(MIRROR, {"B": other}, A=1, B=2)
        await plane.predict(b'{"instances":[{"a":1,"b":2}]}')
        await eventually(lambda: len(plane.triton.model.seen) == 2)
        ours, theirs = [one.inputs["x"] for one in plane.triton.model.seen]
        assert ours == (theirs if other is SIGNATURE else theirs[::-1])


async def test_version_b_that_is_not_ready_drops_copies(plane: FakeTritonPlane) -> None:
    plane.triton.version("m", 2).ready = False
    await predicted(plane, 1.0)
    assert counts(plane) == {"dropped": 1}
