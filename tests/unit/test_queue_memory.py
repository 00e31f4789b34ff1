"""Requests that wait are bounded by all the memory that they hold, not by their tensors alone."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import GatewayError, Overloaded
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.waiting import eventually


class Ended(Outcome):
    """Keeps the kind of the error alone: its traceback refers to the whole request."""

    error: type[GatewayError] | None = None

    def fail(self, error: GatewayError) -> None:
        self.error = type(error)


@pytest.mark.parametrize("rows", [80, 800])
@pytest.mark.parametrize("protocol", [False, True])
async def test_waiting_requests_are_bounded_by_what_they_hold(
    tmp_path: Path, rows: int, protocol: bool
) -> None:
    wide = Signature(tuple(Feature(f"f{at}", DType.FP32) for at in range(30)), packed_input="x")
    limit = 4 * 2**20

    def body(number: int) -> bytes:
        data = [[number + row * 30 + at + 0.125 for at in range(30)] for row in range(rows)]
        tensor = {"name": "x", "shape": [rows, 30], "datatype": "FP32", "data": data}
        return json.dumps({"inputs": [tensor]} if protocol else {"data": data}).encode()

    with FakeTritonPlane(tmp_path, request_seconds=60, max_queued_bytes=limit) as plane:
        plane.route(signatures={"A": wide}, A=1)
        plane.triton.holds.add(1)

        def send(text: bytes) -> Ended:
            ended = Ended()
            if protocol:
                plane.open_inference.submit("m", None, None, text, None, ended)
            else:
                plane.predictor.submit(text, ended)
            return ended

        texts = [body(number) for number in range(120 if rows == 80 else 20)]
        first = [send(texts[0]) for _ in range(2)]
        await eventually(lambda: len(plane.triton.calls) == 2)
        tracemalloc.start()
        try:
            # Each is received anew: what tracemalloc has not seen is not counted.
            waiting = [send(bytes(bytearray(text))) for text in texts]
            await eventually(lambda: any(one.error is not None for one in waiting), seconds=10)
            # What was refused is let go of once the threads that read it are done with it.
            await eventually(lambda: tracemalloc.get_traced_memory()[0] < 1.3 * limit, seconds=10)
        finally:
            tracemalloc.stop()
        assert plane.queue_budget.held <= limit
        assert {one.error for one in waiting} == {None, Overloaded}
        assert [one.error for one in first] == [None, None]
