"""Predictions by several keys and request features: from the body to the row that Triton gets."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serving_gateway.contract import (
    TIMELESS,
    DType,
    Feature,
    PredictRequest,
    Signature,
    Strategy,
    Traffic,
)
from serving_gateway.errors import FeaturesUnavailable, GatewayError, InvalidInput, TooLarge
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import InvalidEntityIds, LookupRequest
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.entity_merge import merge_entities
from serving_gateway.inference.entity_request import read_entities
from tests.support.fake_triton import FakeTritonPlane
from tests.support.feature_plans import (
    KEY,
    NOON,
    SHOP,
    MemoryStore,
    StoredRows,
    outcomes,
    plan_of,
    row,
)
from tests.support.waiting import eventually

# Customers have `a` and `b` by id, in two views; shops have `c` by name; `x` and `y` are sent.
FEATURES = tuple(Feature(name, DType.FP32, nullable=name == "y") for name in "xacby")
SIGNATURE = Signature(
    FEATURES,
    packed_input="features",
    feature_service="s",
    join_keys=("id", "shop"),
    request=("x", "y"),
)
ONE_KEY = Signature(FEATURES[1:2], "features", feature_service="s", join_keys=("id",))
OLD = msgspec.structs.replace(ONE_KEY, join_keys=())
SENT_ONLY = Signature(FEATURES[:1], "features", request=("x",))
ROWS: StoredRows = {
    "one": {1: row(5, 1.0), 2: row(5, 2.0), 3: row(90, 3.0), 4: row(5, None)},
    "two": {1: row(900, 10.0), 2: row(7, 20.0), 3: row(7, 30.0), 4: row(7, 40.0)},
    "shops": {"x": row(1, 0.5), "y": row(2, 0.25)},
}
BOTH = {"entities": {"id": 2, "shop": "y"}, "request": {"y": 7, "x": 5}}


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", NOON.timestamp)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(plan_of(one=(KEY, 60, "a"), two=(KEY, 0, "b"), shops=(SHOP, 60, "c")), ROWS)


@pytest.fixture
async def reader(store: MemoryStore) -> AsyncIterator[FeatureReader]:
    one = FeatureReader(store, limit_seconds=5)
    yield one
    await one.aclose()


@pytest.fixture
async def plane(tmp_path: Path, reader: FeatureReader) -> AsyncIterator[FakeTritonPlane]:
    with FakeTritonPlane(tmp_path, reader, max_rows=4) as one:
        one.route(signatures={"A": SIGNATURE}, A=1)
        yield one


async def answer_of(plane: FakeTritonPlane, body: dict[str, Any]) -> tuple[list[float], Any]:
    """The elements that Triton got, and the response."""
    response = json.loads(await plane.predict(json.dumps(body).encode()))
    return plane.triton.model.seen[-1].inputs["features"], response


async def refusal_of(plane: FakeTritonPlane, body: dict[str, Any]) -> tuple[str | None, str, str]:
    """The field, the code and the message of an error."""
    with pytest.raises(GatewayError) as caught:
        await plane.predict(json.dumps(body).encode())
    assert plane.triton.model.seen == []
    assert caught.value.status in {413, 422}
    return caught.value.field, caught.value.code, caught.value.message


@pytest.mark.parametrize("body", [{"entities": {"id": 1}}, {"entity_id": 1}])
async def test_stored_time_that_cannot_be_shown_leaves_no_request_unanswered(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    rows: StoredRows = {"one": {1: row(-1e12, None)}}
    reader = FeatureReader(MemoryStore(plan_of(one=(KEY, 60, "a")), rows), limit_seconds=5)
    with FakeTritonPlane(tmp_path, reader) as plane:
        plane.route(signatures={"A": ONE_KEY}, A=1)
        with pytest.raises(GatewayError) as caught:
            await plane.predict(json.dumps(body).encode())
        assert caught.value.status == 500
    await reader.aclose()


async def test_stored_and_sent_features_are_a_row_in_the_order_of_the_signature(
    plane: FakeTritonPlane, store: MemoryStore
) -> None:
    numbers, response = await answer_of(plane, BOTH)
    assert numbers == [5, 2, 0.25, 20, 7]
    assert (response["feature_source"], response["features_as_of"]) == (
        *("feast", "2024-06-01T11:59:53Z"),
    )
    [asked] = store.asked
    assert (asked.names, asked.keys, [*asked.ids]) == (("a", "c", "b"), ("id", "shop"), [(2, "y")])
    assert plane.metrics.sources["feast"] == 1


async def test_many_rows_are_read_at_once_and_each_id_once(
    plane: FakeTritonPlane, store: MemoryStore
) -> None:
    entities = [{"shop": "x", "id": 1}, {"id": 2, "shop": "x"}, {"id": 1, "shop": "x"}]
    sent = [{"x": 1, "y": None}, {"x": 2, "y": 3}, {"x": 4, "y": 5}]
    numbers, response = await answer_of(plane, {"entities": entities, "request": sent})
    assert [str(one) for one in numbers] == [
        *("1.0", "1.0", "0.5", "10.0", "nan", "2.0", "2.0", "0.5", "20.0", "3.0"),
        *("4.0", "1.0", "0.5", "10.0", "5.0"),
    ]
    assert response["features_as_of"] == "2024-06-01T11:45:00Z", "the oldest of all rows"
    assert [*store.asked[0].ids] == [(1, "x"), (2, "x")]


async def test_tables_without_times_say_nothing_of_the_age_of_values(
    plane: FakeTritonPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROWS["two"], 2, (TIMELESS, [20.0]))
    for sent, time in (
        ({}, "2024-06-01T11:59:55Z"),
        ({"a": 1}, "2024-06-01T11:59:58Z"),
        ({"a": 1, "c": 1}, None),
    ):
        _, response = await answer_of(plane, BOTH | {"request": SENT | sent})
        assert response["features_as_of"] == time


async def test_what_is_sent_of_stored_features_is_taken_instead(plane: FakeTritonPlane) -> None:
    body = {
        "entities": [{"id": 1, "shop": "x"}, {"id": 2, "shop": "x"}],
        "request": [{"x": 1, "y": 1, "b": 8.5}, {"x": 2, "y": 2}],
    }
    numbers, response = await answer_of(plane, body)
    assert numbers == [1, 1, 0.5, 8.5, 1, 2, 2, 0.5, 20, 2]
    assert response["feature_source"] == "override"
    assert response["features_as_of"] == "2024-06-01T11:59:53Z", "not of the view that is replaced"
    assert plane.metrics.sources["override"] == 1


@pytest.mark.parametrize(
    ("entity", "sent"),
    [
        ({"shop": "x"}, {"a": 3, "b": 4}),
        ({"id": 404, "shop": "x"}, {"a": 3, "b": 4}),
        ({"id": 3, "shop": "x"}, {"a": 3, "b": 4}),
        ({"id": 4, "shop": "x"}, {"a": 3, "b": 4}),
        ({"id": 1}, {"c": 0.5, "a": 3, "b": 4}),
        ({}, {"c": 0.5, "a": 3, "b": 4}),
        ({"id": 404, "shop": "404"}, {"c": 0.5, "a": 3, "b": 4}),
    ],
)
async def test_key_is_not_needed_where_all_that_it_has_is_sent(
    plane: FakeTritonPlane, entity: dict[str, Any], sent: dict[str, float]
) -> None:
    body = {"entities": entity, "request": {"x": 1, "y": 2, **sent}}
    numbers, response = await answer_of(plane, body)
    assert numbers == [1, 3, 0.5, 4, 2]
    assert response["feature_source"] == "override"
    expected = None if "c" in sent else "2024-06-01T11:59:59Z"
    assert response["features_as_of"] == expected


async def test_gap_of_an_entity_is_filled_by_what_is_sent(plane: FakeTritonPlane) -> None:
    """Of an incomplete one and of an expired view; the rest is the store's."""
    body = {
        "entities": [{"id": 4, "shop": "x"}, {"id": 3, "shop": "y"}],
        "request": [{"x": 1, "y": 2, "a": 9}, {"x": 1, "y": 2, "a": 9}],
    }
    numbers, response = await answer_of(plane, body)
    assert numbers == [1, 9, 0.5, 40, 2, 1, 9, 0.25, 30, 2]
    assert response["features_as_of"] == "2024-06-01T11:59:53Z"


async def test_store_is_not_asked_where_everything_is_sent(
    plane: FakeTritonPlane, store: MemoryStore
) -> None:
    store.fails = FeaturesUnavailable("down")
    sent = {"x": 1, "y": 2, "a": 3, "b": 4, "c": 5}
    for body in ({"request": sent}, {"request": [sent]}, {**BOTH, "request": sent}):
        numbers, response = await answer_of(plane, body)
        assert numbers == [1, 3, 5, 4, 2]
        assert (response["feature_source"], response["features_as_of"]) == ("override", None)
    assert store.asked == []
    with pytest.raises(FeaturesUnavailable, match="down"):
        await plane.predict(json.dumps(BOTH).encode())


SENT = {"x": 1, "y": 1}


@pytest.mark.parametrize(
    ("body", "field", "code", "words"),
    [
        (BOTH | {"entity_id": 1}, "entity_id", "too_many", "together"),
        (BOTH | {"entity_ids": [1]}, "entity_ids", "too_many", "together"),
        (BOTH | {"data": [[1, 2, 3, 4, 5]]}, "data", "too_many", "together"),
        ({"request": SENT, "instances": [{}]}, "instances", "too_many", "together"),
        ({}, "data", "missing_field", "or entities with id, shop, and request with x, y"),
        ({"entity_id": 1}, "entity_id", "missing_key", "id, shop, and request with x, y"),
        ({"entity_ids": [1], "data": [[1]]}, "entity_ids", "missing_key", "id, shop"),
        ({"entities": [], "request": []}, "entities", "empty", "at least one"),
        ({"request": []}, "request", "empty", "at least one"),
        (BOTH | {"request": [SENT]}, "request", "wrong_type", "an object"),
        ({"entities": [{}], "request": SENT}, "request", "wrong_type", "a list"),
        ({"entities": [{}], "request": [SENT] * 2}, "request", "wrong_length", "2 rows for 1"),
        ({"entities": [{}] * 5}, "entities", "too_many_rows", "at most 4"),
        ({"request": [SENT] * 5}, "request", "too_many_rows", "at most 4"),
        ({"entities": {"id": 1, "shop": "x"}}, "request.x", "missing_feature", "each request"),
        (BOTH | {"request": {"x": 1}}, "request.y", "missing_feature", "null"),
        (BOTH | {"request": SENT | {"z": 1}}, "request.z", "unknown_feature", "x, a, c, b, y"),
        (BOTH | {"request": SENT | {"x": "1"}}, "request.x", "wrong_type", "a number"),
        (BOTH | {"request": SENT | {"x": None}}, "request.x", "missing_value", "null"),
        (BOTH | {"request": SENT | {"x": [1]}}, "request.x", "wrong_type", "array"),
        (BOTH | {"request": SENT | {"b": "1"}}, "request.b", "wrong_type", "a number"),
        (BOTH | {"request": SENT | {"b": None}}, "request.b", "missing_value", "null"),
        (
            {"entities": [BOTH["entities"]] * 2, "request": [SENT, SENT | {"x": math.inf}]},
            *("request[1].x", "not_finite", "infinite"),
        ),
        (
            {"entities": {"id": 1, "shop": "x", "city": 1}, "request": SENT},
            *("entities.city", "unknown_key", "read by id, shop"),
        ),
        ({"request": SENT}, "entities.id", "missing_key", "a, c, b"),
        ({"entities": {"shop": "x"}, "request": SENT}, "entities.id", "missing_key", "a, c, b"),
        (
            {"entities": [{"shop": "x"}], "request": [SENT | {"a": 1}]},
            *("entities[0].id", "missing_key", "missing: b would be read"),
        ),
        (
            {"entities": {}, "request": SENT | {"a": 1, "b": 1}},
            *("entities.shop", "missing_key", "missing: c would be read"),
        ),
        (
            {"entities": {"id": 1.5, "shop": "x"}, "request": SENT},
            *("entities.id", "wrong_type", "float"),
        ),
        (
            {"entities": [{"id": 1, "shop": "x"}, {"id": 1, "shop": 7}], "request": [SENT] * 2},
            *("entities[1].shop", "wrong_type", "a string"),
        ),
        (
            {"entities": {"id": 1 << 63, "shop": "x"}, "request": SENT},
            *("entities.id", "wrong_type", "64 bits"),
        ),
        (
            {"entities": [BOTH["entities"], {"id": 1, "shop": "z"}], "request": [SENT] * 2},
            *("entities[1].shop", "unknown_entity", "shop 'z' is not in feature view shops"),
        ),
        (
            {"entities": {"id": 1, "shop": "z" * 100_000}, "request": SENT},
            *("entities.shop", "unknown_entity", r"^shop 'z{199}\.\.\. is not in.{,90}$"),
        ),
        (
            {"entities": {"id": 1, "shop": "x", "": 1}, "request": SENT},
            *("entities.", "unknown_key", r"^entities\. is not a key"),
        ),
        (
            {"entities": {"id": 3, "shop": "x"}, "request": SENT},
            *("entities.id", "expired_entity", "2024-06-01T11:58:30Z only, older than"),
        ),
        (
            {"entities": {"id": 404, "shop": "x"}, "request": SENT | {"a": 1}},
            *("entities.id", "unknown_entity", "views one, two.*own instead, send b in request"),
        ),
        (
            {"entities": {"id": 4, "shop": "x"}, "request": SENT | {"b": 1}},
            *("entities.id", "incomplete_entity", "no value for a in feature views one, two"),
        ),
    ],
)
async def test_wrong_request_is_refused_with_the_place(
    plane: FakeTritonPlane, body: dict[str, Any], field: str, code: str, words: str
) -> None:
    found = await refusal_of(plane, body)
    assert found[:2] == (field, code)
    with pytest.raises(InvalidInput, match=words):
        raise InvalidInput(found[2])


async def test_rows_in_the_payload_need_all_columns_as_before(plane: FakeTritonPlane) -> None:
    numbers, response = await answer_of(plane, {"data": [[1, 2, 3, 4, None]]})
    assert numbers[:4] == [1, 2, 3, 4]
    assert (response["feature_source"], response["features_as_of"]) == ("payload", None)


async def test_entities_name_the_only_key_too(plane: FakeTritonPlane) -> None:
    for version, signature in enumerate((ONE_KEY, OLD), 2):
        plane.route(signatures={"A": signature}, A=version)
        for body in ({"entities": {"id": 1}}, {"entities": [{"id": 1}]}, {"entity_id": 1}):
            numbers, response = await answer_of(plane, body)
            assert (numbers, response["features_as_of"]) == ([1], "2024-06-01T11:59:55Z")
        numbers, response = await answer_of(plane, {"entities": {}, "request": {"a": 3}})
        assert (numbers, response["feature_source"]) == ([3], "override")
        body = {"entities": [{"id": 404}, {"id": 1}], "request": [{"a": 3}, {}]}
        numbers, response = await answer_of(plane, body)
        assert (numbers, response["feature_source"]) == ([3, 1], "override")


@pytest.mark.parametrize(
    ("entities", "field", "code"),
    [
        ({"other": 1}, "entities.other", "unknown_key"),
        ({"other" * 100: 1}, f"entities.{'other' * 40}", "unknown_key"),
        ([{"id": 1}, {"other": 1}], "entities[1].other", "unknown_key"),
        ([{"id": 1, "other": 1}], "entities[0].other", "unknown_key"),
        ([{"id": 1}, {}], "entities[1].id", "missing_key"),
        ([{"id": 1}, {"id": "x"}], "entities[1].id", "wrong_type"),
        ([{"id": 1}, {"id": 404}], "entities[1].id", "unknown_entity"),
    ],
)
async def test_wrong_only_key_is_refused(
    plane: FakeTritonPlane, entities: Any, field: str, code: str
) -> None:
    for version, signature in enumerate((ONE_KEY, OLD), 2):
        plane.route(signatures={"A": signature}, A=version)
        assert (await refusal_of(plane, {"entities": entities}))[:2] == (field, code)


async def test_long_name_that_cannot_be_a_key_is_not_kept(
    plane: FakeTritonPlane, store: MemoryStore
) -> None:
    """Look-ups are queued by the names of their keys, which here only the client knows."""
    plane.route(signatures={"A": OLD}, A=2)
    assert (await refusal_of(plane, {"entities": {"n" * 201: 1}}))[1] == "unknown_key"
    assert store.asked == []


async def test_request_that_names_no_key_at_all_is_refused(plane: FakeTritonPlane) -> None:
    plane.route(signatures={"A": OLD}, A=2)
    assert (await refusal_of(plane, {"entities": [{}]}))[:2] == ("entities[0]", "missing_key")


async def test_id_for_a_service_of_several_keys_is_refused_with_the_keys(
    plane: FakeTritonPlane,
) -> None:
    """Also where the version does not say that it has several."""
    unsaid = msgspec.structs.replace(SIGNATURE, join_keys=(), request=(), features=FEATURES[1:4])
    plane.route(signatures={"A": unsaid}, A=2)
    for body in ({"entity_id": 1}, {"entity_id": 1, "data": [[1, 2, 3]]}):
        found = await refusal_of(plane, body)
        assert found[:2] == ("entity_id", "missing_key")
        assert "send entities with id, shop instead" in found[2]
    found = await refusal_of(plane, {"entities": {"id": 1}})
    assert found[:2] == ("entities.id", "unknown_key")
    assert "read by id, shop" in found[2]


async def test_features_that_only_the_caller_knows_need_no_store(tmp_path: Path) -> None:
    with FakeTritonPlane(tmp_path) as plane:
        plane.route(signatures={"A": SENT_ONLY}, A=1)
        numbers, response = await answer_of(plane, {"request": [{"x": 1}, {"x": 2}]})
        assert (numbers, response["feature_source"]) == ([1, 2], "payload")
        field, code, _ = await refusal_of_new(plane, {"entities": {"id": 1}, "request": {"x": 1}})
        assert (field, code) == ("entities.id", "unknown_key")
        plane.route(signatures={"A": SIGNATURE}, A=2)
        field, code, said = await refusal_of_new(plane, BOTH)
        assert (field, code) == ("entities", "features_off")
        assert "GATEWAY_FEAST_DIR" in said


async def refusal_of_new(plane: FakeTritonPlane, body: dict[str, Any]) -> Any:
    """The same of a plane that has answered before."""
    plane.triton.model.seen.clear()
    return await refusal_of(plane, body)


async def test_b_that_wants_more_keys_leaves_the_request_to_a(plane: FakeTritonPlane) -> None:
    plane.route(Traffic(Strategy.SPLIT, 100), {"A": ONE_KEY, "B": SIGNATURE}, A=1, B=2)
    numbers, response = await answer_of(plane, {"entities": {"id": 1}, "client_id": "c"})
    assert (numbers, response["variant"]) == ([1], "A")
    assert "request.x" in response["fallback"]


def test_request_feature_that_is_no_feature_makes_a_signature_unusable() -> None:
    with pytest.raises(ValueError, match="request feature 'z'"):
        Codec(msgspec.structs.replace(SIGNATURE, request=("x", "z")))


async def test_large_bodies_and_many_values_are_read_in_the_thread(
    tmp_path: Path, reader: FeatureReader
) -> None:
    with FakeTritonPlane(tmp_path, reader, max_rows=1024) as plane:
        plane.route(signatures={"A": SIGNATURE}, A=1)
        sent: list[dict[str, Any]] = [
            {"x": 0.5, "y": 1.25, "a": 1.0 + at, "b": 2.0} for at in range(1024)
        ]
        body = {"entities": [BOTH["entities"]] * 1024, "request": sent}
        assert len(json.dumps(body)) > 65_536
        numbers, response = await answer_of(plane, body)
        assert numbers[-5:] == [0.5, 1024, 0.25, 2, 1.25]
        assert response["feature_source"] == "override"
        sent[700]["x"] = "x" * 10
        field, code, _ = await refusal_of_new(plane, body)
        assert (field, code) == ("request[700].x", "wrong_type")


CODEC = Codec(SIGNATURE)
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NAMES = st.sampled_from(["id", "shop", "x", "y", "a", "b", "c", "z", ""])


def parts(values: Any) -> Any:
    one = st.dictionaries(NAMES, values, max_size=7)
    return st.none() | one | st.lists(one, max_size=3)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(entities=parts(st.integers() | st.sampled_from("xyz")), sent=parts(VALUES))
def test_any_request_is_answered_or_refused_with_a_place(entities: Any, sent: Any) -> None:
    assume(entities is not None or sent is not None)
    plan = plan_of(one=(KEY, 0, "a"), two=(KEY, 0, "b"), shops=(SHOP, 0, "c"))
    try:
        found = read_entities(CODEC, PredictRequest(entities=entities, request=sent), 2)
        request = LookupRequest(
            "s", CODEC.layout.stored, found.wanted_ids, CODEC.nullable, found.keys
        )
        results = outcomes(plan.read(request), ROWS)
        invalid = [
            InvalidEntityIds(at, one.why, one.key)
            for at, one in enumerate(results)
            if isinstance(one, InvalidEntityIds)
        ]
        rows = merge_entities(CODEC, found, invalid[0] if invalid else results)
    except (InvalidInput, TooLarge) as error:
        refused = error
    else:
        assert rows.count == len(found.sent) == len(found.ids)
        assert all(len(one) == CODEC.width for one in rows.data or ())
        return
    assert (refused.field or "").partition("[")[0].partition(".")[0] in {"entities", "request"}


async def test_mirrored_rows_go_by_name_to_a_version_of_another_order(
    plane: FakeTritonPlane,
) -> None:
    """Also those that came with the request alone, and from no store."""
    other = msgspec.structs.replace(SIGNATURE, features=FEATURES[::-1])
    plane.route(Traffic(Strategy.MIRROR, 100), {"A": SIGNATURE, "B": other}, A=1, B=2)
    await answer_of(plane, BOTH)
    await eventually(lambda: len(plane.triton.model.seen) == 2)
    assert plane.triton.model.seen[1].inputs["features"] == [7, 20, 0.25, 2, 5]
    sent = Signature(FEATURES[:2], "features", request=("x", "a"))
    back = msgspec.structs.replace(sent, features=sent.features[::-1])
    plane.route(Traffic(Strategy.MIRROR, 100), {"A": sent, "B": back}, A=3, B=4)
    await answer_of(plane, {"request": {"x": 1, "a": 2}})
    await eventually(lambda: len(plane.triton.model.seen) == 4)
    assert plane.triton.model.seen[3].inputs["features"] == [2, 1]
