"""Which rows a request leads to: its own, those of the feature store, or both."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from serving_gateway.contract import DType, Feature, FeatureSource, PredictRequest, Signature
from serving_gateway.errors import FeaturesUnavailable, InvalidInput, TooLarge
from serving_gateway.features.types import LookupDone, LookupResult, Status
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.rows import RowReader, Rows

NAMES = ("width", "length")
SIGNATURE = Signature(
    features=tuple(Feature(name, DType.FP32) for name in NAMES),
    packed_input="features",
    feature_service="flowers_v1",
)
CODEC = Codec(SIGNATURE)
NOWHERE = Codec(Signature(features=SIGNATURE.features, packed_input="features"))
STORED: dict[int | str, LookupResult] = {
    1: LookupResult(Status.FOUND, [1.0, 10.0], (), None),
    2: LookupResult(Status.FOUND, [2.0, 20.0], (), None),
    7: LookupResult(Status.EXPIRED, None, (), datetime(2020, 1, 1, tzinfo=UTC).timestamp()),
    8: LookupResult(Status.INCOMPLETE, None, ("length",), None),
}


class Store:
    """A feature store in memory, which may be down."""

    def __init__(self) -> None:
        self.down = False
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def look_up(
        self,
        service: str,
        names: tuple[str, ...],
        ids: Sequence[int | str],
        nullable: frozenset[str],
        done: LookupDone,
    ) -> None:
        self.asked.append((service, names))
        self.nullable = nullable
        outcome = [STORED.get(one, LookupResult(Status.UNKNOWN, None, (), None)) for one in ids]
        error = FeaturesUnavailable("down") if self.down else None
        asyncio.get_running_loop().call_soon(done, error or outcome)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def reader(store: Store) -> RowReader:
    return RowReader(3, store)


def numbers(rows: Rows) -> list[float]:
    (tensor,) = rows.tensors
    return list(struct.unpack(f"<{len(tensor) // 4}f", tensor))


async def test_rows_come_in_the_order_of_the_signature(reader: RowReader, store: Store) -> None:
    rows = await reader.of_entities(CODEC, PredictRequest(entity_ids=[2, 1]))
    assert numbers(rows) == [2, 20, 1, 10]
    assert (rows.count, rows.source) == (2, FeatureSource.FEAST)
    assert store.asked == [("flowers_v1", NAMES)]


async def test_a_null_of_the_store_travels_as_nan(reader: RowReader, store: Store) -> None:
    features = (Feature("width", DType.FP32), Feature("length", DType.FP32, nullable=True))
    codec = Codec(Signature(features, packed_input="features", feature_service="flowers_v1"))
    STORED[5] = LookupResult(Status.FOUND, [5.0, None], (), None)
    rows = await reader.of_entities(codec, PredictRequest(entity_ids=[5, 1]))
    assert store.nullable == {"length"}
    assert [math.isnan(one) for one in numbers(rows)] == [False, True, False, False]
    assert rows.data == [[5.0, None], [1.0, 10.0]]


async def test_the_store_wins_over_the_payload(reader: RowReader) -> None:
    rows = await reader.of_entities(CODEC, PredictRequest(entity_id=1, data=[[5.0, 5.0]]))
    assert numbers(rows) == [1, 10]
    assert rows.source is FeatureSource.FEAST


@pytest.mark.parametrize("entity", [7, 8, 9])
@pytest.mark.parametrize(
    "payload",
    [
        {"data": [[5.0, 50.0], [6.0, 60.0]]},
        {"instances": [{"length": 50.0, "width": 5.0}, {"length": 60.0, "width": 6.0}]},
    ],
)
async def test_the_payload_fills_what_the_store_cannot_serve(
    reader: RowReader, entity: int, payload: dict[str, Any]
) -> None:
    request = PredictRequest(entity_ids=[1, entity], **payload)
    rows = await reader.of_entities(CODEC, request)
    assert numbers(rows) == [1, 10, 6, 60]
    assert rows.source is FeatureSource.FALLBACK


@pytest.mark.parametrize(
    ("entity", "code", "words"),
    [
        (7, "expired_entity", "2020-01-01"),
        (8, "incomplete_entity", "length"),
        (9, "unknown_entity", "not in the feature store"),
    ],
)
async def test_without_a_payload_the_place_and_the_reason_are_told(
    reader: RowReader, entity: int, code: str, words: str
) -> None:
    for request, field in (
        (PredictRequest(entity_ids=[1, entity]), "entity_ids[1]"),
        (PredictRequest(entity_id=entity), "entity_id"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            await reader.of_entities(CODEC, request)
        assert (caught.value.field, caught.value.code) == (field, code)


async def test_a_store_that_is_down_falls_back_to_the_payload_or_is_told(
    reader: RowReader, store: Store
) -> None:
    store.down = True
    rows = await reader.of_entities(CODEC, PredictRequest(entity_id=1, data=[[5.0, 6.0]]))
    assert (numbers(rows), rows.source) == ([5, 6], FeatureSource.FALLBACK)
    with pytest.raises(FeaturesUnavailable):
        await reader.of_entities(CODEC, PredictRequest(entity_id=1))


@pytest.mark.parametrize(("features", "codec"), [(None, CODEC), (Store(), NOWHERE)])
async def test_without_a_feature_store_the_payload_answers(
    features: Store | None, codec: Codec
) -> None:
    reader = RowReader(3, features)
    rows = await reader.of_entities(codec, PredictRequest(entity_id=1, data=[[5.0, 6.0]]))
    assert (numbers(rows), rows.source) == ([5, 6], FeatureSource.PAYLOAD)
    with pytest.raises(InvalidInput) as caught:
        await reader.of_entities(codec, PredictRequest(entity_id=1))
    assert (caught.value.code, caught.value.field) == ("features_off", "entity_id")


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"entity_id": 1, "entity_ids": [1]}, "entity_ids", "too_many"),
        ({"entity_ids": []}, "entity_ids", "empty"),
        ({"entity_ids": [1, 2], "data": [[1.0, 2.0]]}, "data", "wrong_length"),
        ({"entity_id": 1, "instances": []}, "instances", "wrong_length"),
        ({"entity_id": 1, "data": [[1.0, 2.0]], "instances": [{}]}, "data", "too_many"),
        ({"entity_ids": [1, 9], "data": [[1.0, 2.0], [1.0, "x"]]}, "data[1][1]", "wrong_type"),
    ],
)
async def test_a_request_that_contradicts_itself_is_refused(
    reader: RowReader, body: dict[str, Any], field: str, code: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await reader.of_entities(CODEC, PredictRequest(**body))
    assert (caught.value.field, caught.value.code) == (field, code)


async def test_only_so_many_entities_are_taken(reader: RowReader) -> None:
    with pytest.raises(TooLarge, match="at most 3"):
        await reader.of_entities(CODEC, PredictRequest(entity_ids=[1, 2, 1, 2]))
