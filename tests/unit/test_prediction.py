"""A prediction from its body to its response, over every way that rows may come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import Signature, Strategy, Traffic
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    Overloaded,
)
from serving_gateway.features.types import LookupResult, Status
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.stub_model import SIGNATURE
from tests.support.waiting import eventually

FEATURED = Signature(SIGNATURE.features, "x", feature_service="flowers")


class Reader:
    """A feature reader that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting: list[Any] = []
        self.result: Any = None

    def look_up(self, service: str, names: Any, ids: Any, nullable: Any, done: Any) -> None:
        self.asked.append((service, names, list(ids), nullable))
        self.waiting.append(done)

    def answer(self, *results: Any) -> None:
        self.waiting.pop(0)(results[0] if isinstance(results[0], GatewayError) else [*results])


def found(*values: Any) -> LookupResult:
    return LookupResult(Status.FOUND, [*values])


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def plane(tmp_path: Path, reader: Reader) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path, reader, request_seconds=0.5) as one:
        one.route(signatures={"A": FEATURED}, A=1)
        yield one


async def decode(outcome: Outcome) -> Any:
    return json.loads(await outcome)


@pytest.mark.parametrize(
    "body",
    [b'{"data":[[1.5,2.5],[2,null]]}', b'{"instances":[{"b":2.5,"a":1.5},{"a":2,"b":null}]}'],
)
async def test_rows_of_the_payload_are_answered(plane: FakeTritonPlane, body: bytes) -> None:
    response = await decode(plane.predict(body))
    prefix, _, number = response.pop("prediction_id").partition("-")
    assert prefix == plane.dispatcher.ids.prefix
    assert number.isdecimal()
    assert response == {
        "predictions": [1, 1],
        "probabilities": [[1.5, 2.0], [2.0, 2.0]],
        "model_name": "m",
        "variant": "A",
        "version": 1,
        "run_id": "run-1",
        "generation": 1,
        "feature_source": "payload",
        "fallback": None,
        "features_as_of": None,
    }
    assert plane.metrics.sources["payload"] == 1


async def test_concurrent_requests_share_an_inference_and_keep_their_rows(
    plane: FakeTritonPlane,
) -> None:
    outcomes = [plane.predict(b'{"data":[[%d,0]]}' % number) for number in range(20)]
    answers = [(await decode(outcome))["probabilities"][0][0] for outcome in outcomes]
    assert answers == [float(number) for number in range(20)]
    assert len(plane.triton.calls) < 6


async def test_output_that_json_cannot_hold_fails_only_its_own_request(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.model.broken.add(7.0)
    outcomes = [plane.predict(b'{"data":[[%d,0]]}' % number) for number in range(10)]
    for number, outcome in enumerate(outcomes):
        if number == 7:
            with pytest.raises(BadUpstreamAnswer) as caught:
                await outcome
            assert caught.value.code == "not_finite_output"
        else:
            assert (await decode(outcome))["probabilities"][0][0] == number


async def test_row_that_the_model_refuses_fails_only_its_own_request(
    plane: FakeTritonPlane,
) -> None:
    plane.triton.model.refused.add(37.0)
    outcomes = [plane.predict(b'{"data":[[%d,0]]}' % number) for number in range(66)]
    for number, outcome in enumerate(outcomes):
        if number == 37:
            with pytest.raises(InferenceRefused):
                await outcome
        else:
            await outcome
    assert len(plane.triton.calls) < 20, "found by halving"


async def test_overloaded_triton_gets_no_request_twice(plane: FakeTritonPlane) -> None:
    plane.triton.errors[1] = Overloaded("Triton has too much to do")
    outcomes = [plane.predict(b'{"data":[[1,0]]}') for _ in range(64)]
    for outcome in outcomes:
        with pytest.raises(Overloaded) as caught:
            await outcome
        assert caught.value.retry_after == 1
    assert len(plane.triton.calls) <= 3


async def test_a_answers_for_an_entity_that_only_b_lacks(
    plane: FakeTritonPlane, reader: Reader
) -> None:
    split = Traffic(Strategy.SPLIT, 100)
    plane.route(split, dict.fromkeys("AB", FEATURED), A=1, B=2)
    outcome = plane.predict(b'{"entity_id":7,"client_id":"c"}')
    reader.answer(LookupResult(Status.UNKNOWN, None))
    await eventually(lambda: reader.waiting)
    reader.answer(found(1.0, 2.0))
    response = await decode(outcome)
    assert response["variant"] == "A"
    assert "not in the feature store" in response["fallback"]


async def test_a_answers_for_an_entity_when_b_fails_after_its_look_up(
    plane: FakeTritonPlane, reader: Reader
) -> None:
    split = Traffic(Strategy.SPLIT, 100)
    plane.route(split, dict.fromkeys("AB", FEATURED), A=1, B=2)
    plane.triton.errors[2] = BadUpstreamAnswer("broken")
    outcome = plane.predict(b'{"entity_id":7,"client_id":"c"}')
    for _ in "BA":
        await eventually(lambda: reader.waiting)
        reader.answer(found(1.0, 2.0))
    response = await decode(outcome)
    assert (response["variant"], response["fallback"]) == (
        "A",
        "variant B could not answer: broken",
    )


async def test_a_answers_a_large_body_when_b_fails(plane: FakeTritonPlane) -> None:
    plane.route(Traffic(Strategy.SPLIT, 100), A=1, B=2)
    plane.triton.errors[2] = BadUpstreamAnswer("broken")
    body = b'{"data":[[1,2]],"client_id":"c"}' + b" " * 70_000
    assert (await decode(plane.predict(body)))["variant"] == "A"


async def test_look_up_that_outlasts_the_request_is_not_inferred(
    plane: FakeTritonPlane, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.predictor._request_seconds = 0.0
    outcome = plane.predict(b'{"entity_id":7}')
    reader.answer(found(1.0, 2.0))
    with pytest.raises(DeadlineExceeded):
        await outcome
    assert plane.triton.calls == []


async def test_nothing_is_inferred_for_a_client_that_left_during_the_look_up(
    plane: FakeTritonPlane, reader: Reader
) -> None:
    outcome = Outcome()
    plane.predictor.submit(b'{"entity_id":7}', outcome).abandon()
    reader.answer(found(1.0, 2.0))
    assert plane.triton.calls == []
    assert not outcome.ended.done()


LARGE = b" " * 70_000


@pytest.mark.parametrize("padding", [b"", LARGE])
@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b'{"data":[[1,NaN],[NaN,1]]}', "missing_value", "data[1][0]"),
        (b'{"data":[[1,Infinity]]}', "not_finite", "data[0][1]"),
        (b'{"data":[[1,2],[1]]}', "wrong_width", "data[1]"),
        (b'{"data":[[1,"x"]]}', "wrong_type", "data[0][1]"),
        (b'{"instances":[{"a":1}]}', "missing_feature", "instances[0].b"),
        (b'{"instances":[{"a":1,"b":1,"\\ud800":1}]}', "invalid_text", None),
        (b'{"data":[[1,2]],"\\ud800":NaN}', "unknown_field", None),
        (b'{"data":[[1,2]],"more":1}', "unknown_field", "more"),
        (b'{"data":[]}', "empty", "data"),
        (b"{}", "missing_field", "data"),
        (b'{"data":[[1,2]],"client_id":"%b"}' % (b"c" * 300), "too_long", "client_id"),
        (b'{"data":%b}' % json.dumps([[1, 2]] * 2000).encode(), "too_many_rows", "data"),
    ],
)
async def test_wrong_body_of_any_size_is_refused_alike(
    plane: FakeTritonPlane, body: bytes, code: str, field: str | None, padding: bytes
) -> None:
    with pytest.raises(GatewayError) as caught:
        await plane.predict(body + padding)
    error = caught.value
    assert 400 <= error.status < 500
    if field is not None:
        assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":[[1,2]]}',
        b'{"inputs":[[1,2]]}',
        b'{"dataframe_split":{"columns":["a","b"],"data":[[1,2]]}}',
        b'{"dataframe_records":[{"a":1,"b":2}]}',
    ],
)
async def test_body_for_another_server_is_refused_with_the_form_to_send(
    plane: FakeTritonPlane, body: bytes
) -> None:
    with pytest.raises(InvalidInput, match="Send rows as `data`, lists of values"):
        await plane.predict(body)


@pytest.mark.parametrize("padding", [b"", LARGE])
async def test_byte_order_mark_is_skipped(plane: FakeTritonPlane, padding: bytes) -> None:
    response = await decode(plane.predict(b'\xef\xbb\xbf{"data":[[1,2]]}' + padding))
    assert response["probabilities"] == [[1.0, 1.0]]


@pytest.mark.parametrize("padding", [b"", LARGE])
async def test_good_body_of_any_size_is_answered(plane: FakeTritonPlane, padding: bytes) -> None:
    response = await decode(plane.predict(b'{"data":[[1.5,NaN]]}' + padding))
    assert response["probabilities"] == [[1.5, 1.0]]


async def test_large_body_of_a_client_that_left_is_not_inferred(plane: FakeTritonPlane) -> None:
    gone, stays = Outcome(), Outcome()
    plane.predictor.submit(b'{"data":[[1,2]]}' + LARGE, gone).abandon()
    plane.predictor.submit(b'{"data":[[2,2]]}' + LARGE, stays)
    await stays
    assert len(plane.triton.calls) == 1
    assert not gone.ended.done()


async def test_error_repeats_little_of_what_the_client_sent(plane: FakeTritonPlane) -> None:
    with pytest.raises(InvalidInput) as caught:
        await plane.predict(b'{"data":[[1,2]],"%b":1}' % (b"k" * 100_000))
    assert len(caught.value.message) + len(caught.value.field or "") < 1000
