"""Which rows a request leads to: its own, those of the feature store, or both."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, FeatureSource, Signature
from serving_gateway.errors import FeaturesUnavailable, InvalidInput, TooLarge
from serving_gateway.features.types import LookupDone, LookupResult, Status
from tests.support.fake_triton import FakeTritonPlane

NAMES = ("width", "length")
FEATURES = tuple(Feature(name, DType.FP32) for name in NAMES)
SIGNATURE = Signature(FEATURES, packed_input="features", feature_service="flowers_v1")
NULLABLE = Signature(
    (FEATURES[0], Feature("length", DType.FP32, nullable=True)),
    packed_input="features",
    feature_service="flowers_v1",
)
STORED: dict[int | str, LookupResult] = {
    1: LookupResult(Status.FOUND, [1.0, 10.0], (), None),
    2: LookupResult(Status.FOUND, [2.0, 20.0], (), None),
    5: LookupResult(Status.FOUND, [5.0, None], (), None),
    7: LookupResult(Status.EXPIRED, None, (), datetime(2020, 1, 1, tzinfo=UTC).timestamp()),
    8: LookupResult(Status.INCOMPLETE, None, ("length",), None),
}


class Store:
    """A feature store in memory, which may be down."""

    def __init__(self) -> None:
        self.down = False
        self.asked: list[tuple[str, tuple[str, ...], frozenset[str]]] = []

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str],
        done: LookupDone,
    ) -> None:
        self.asked.append((service, names, nullable))
        outcome = [STORED.get(one, LookupResult(Status.UNKNOWN, None, (), None)) for one in ids]
        error = FeaturesUnavailable("down") if self.down else None
        asyncio.get_running_loop().call_soon(done, error or outcome)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def plane(tmp_path: Path, store: Store) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path, store, max_rows=3) as one:
        one.route(signatures={"A": SIGNATURE}, A=1)
        yield one


async def rows_of(plane: FakeTritonPlane, **body: Any) -> tuple[list[float], FeatureSource]:
    """The elements that Triton got for a request, and where the response says they are from."""
    response = json.loads(await plane.predict(json.dumps(body).encode()))
    inputs = plane.triton.model.seen[-1].inputs
    return inputs["features"], FeatureSource(response["feature_source"])


async def test_rows_come_in_the_order_of_the_signature(
    plane: FakeTritonPlane, store: Store
) -> None:
    assert await rows_of(plane, entity_ids=[2, 1]) == ([2, 20, 1, 10], FeatureSource.FEAST)
    assert store.asked == [("flowers_v1", NAMES, frozenset())]


async def test_null_of_the_store_travels_as_nan(plane: FakeTritonPlane, store: Store) -> None:
    plane.route(signatures={"A": NULLABLE}, A=2)
    numbers, source = await rows_of(plane, entity_ids=[5, 1])
    assert store.asked[0][2] == {"length"}
    assert [math.isnan(one) for one in numbers] == [False, True, False, False]
    assert source is FeatureSource.FEAST


async def test_store_wins_over_the_payload(plane: FakeTritonPlane) -> None:
    assert await rows_of(plane, entity_id=1, data=[[5.0, 5.0]]) == ([1, 10], FeatureSource.FEAST)


@pytest.mark.parametrize("entity", [7, 8, 9])
@pytest.mark.parametrize(
    "payload",
    [
        {"data": [[5.0, 50.0], [6.0, 60.0]]},
        {"instances": [{"length": 50.0, "width": 5.0}, {"length": 60.0, "width": 6.0}]},
    ],
)
async def test_payload_fills_what_the_store_cannot_serve(
    plane: FakeTritonPlane, entity: int, payload: dict[str, Any]
) -> None:
    found = await rows_of(plane, entity_ids=[1, entity], **payload)
    assert found == ([1, 10, 6, 60], FeatureSource.FALLBACK)


@pytest.mark.parametrize(
    ("entity", "code", "words"),
    [
        (7, "expired_entity", "2020-01-01"),
        (8, "incomplete_entity", "length"),
        (9, "unknown_entity", "not in the feature store"),
    ],
)
async def test_without_a_payload_the_place_and_the_reason_are_reported(
    plane: FakeTritonPlane, entity: int, code: str, words: str
) -> None:
    requests: list[tuple[dict[str, Any], str]] = [
        ({"entity_ids": [1, entity]}, "entity_ids[1]"),
        ({"entity_id": entity}, "entity_id"),
    ]
    for request, field in requests:
        with pytest.raises(InvalidInput, match=words) as caught:
            await rows_of(plane, **request)
        assert (caught.value.field, caught.value.code) == (field, code)


async def test_store_that_is_down_falls_back_to_the_payload_or_is_reported(
    plane: FakeTritonPlane, store: Store
) -> None:
    store.down = True
    found = await rows_of(plane, entity_id=1, data=[[5.0, 6.0]])
    assert [*found] == [[5, 6], FeatureSource.FALLBACK]
    with pytest.raises(FeaturesUnavailable):
        await rows_of(plane, entity_id=1)


@pytest.mark.parametrize("has_store", [False, True])
async def test_without_a_feature_store_the_payload_answers(
    tmp_path: Path, store: Store, has_store: bool
) -> None:
    signature = Signature(FEATURES, packed_input="features") if has_store else SIGNATURE
    with FakeTritonPlane(tmp_path, store if has_store else None) as plane:
        plane.route(signatures={"A": signature}, A=1)
        found = await rows_of(plane, entity_id=1, data=[[5.0, 6.0]])
        assert [*found] == [[5, 6], FeatureSource.PAYLOAD]
        with pytest.raises(InvalidInput) as caught:
            await rows_of(plane, entity_id=1)
        assert (caught.value.code, caught.value.field) == ("features_off", "entity_id")
    assert store.asked == []


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"entity_id": 1, "entity_ids": [1]}, "entity_ids", "too_many"),
        ({"entity_ids": []}, "entity_ids", "empty"),
        ({"entity_ids": [1, 2], "data": [[1.0, 2.0]]}, "data", "wrong_length"),
        ({"entity_id": 1, "instances": []}, "instances", "wrong_length"),
        ({"entity_id": 1, "data": [[1.0, 2.0]], "instances": [{}]}, "data", "too_many"),
        ({"entity_ids": [1, 9], "data": [[1.0, 2.0], [1.0, "x"]]}, "data[1][1]", "wrong_type"),
        ({"data": [[1.0, 2.0]], "instances": [{}]}, "data", "missing_field"),
    ],
)
async def test_request_that_contradicts_itself_is_refused(
    plane: FakeTritonPlane, body: dict[str, Any], field: str, code: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await rows_of(plane, **body)
    assert (caught.value.field, caught.value.code) == (field, code)


async def test_only_so_many_entities_are_taken(plane: FakeTritonPlane) -> None:
    with pytest.raises(TooLarge, match="at most 3"):
        await rows_of(plane, entity_ids=[1, 2, 1, 2])
