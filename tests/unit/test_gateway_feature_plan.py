"""What an online store's rows mean: order, age, nulls, and several views of one entity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving_gateway.features.entity_ids import ID_TYPES
from serving_gateway.features.planned_read import PlannedRead
from serving_gateway.features.row_decoder import Row
from serving_gateway.features.service_plan import ServicePlan
from serving_gateway.features.types import LookupRequest, LookupResult, ServiceUnusable, Status
from tests.support.feature_plans import KEY, NOON, plan_of, row, told

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", NOON.timestamp)


def plan(ttl_seconds: float = 60) -> ServicePlan:
    return plan_of(one=(KEY, ttl_seconds, "ab"), two=(KEY, 0, "c"))


def planned(names: tuple[str, ...], ttl_seconds: float = 60, nullable: str = "") -> PlannedRead:
    return plan(ttl_seconds).read(LookupRequest("s", names, [1], frozenset(nullable)))


def judged(
    names: tuple[str, ...], *rows: Row, ttl_seconds: float = 60, nullable: str = ""
) -> LookupResult:
    [found] = planned(names, ttl_seconds, nullable).outcomes([[[one] for one in rows]])
    assert isinstance(found, LookupResult)
    assert (found.values is None) is bool(found.gaps) is bool(found.missing)
    return found


def result(values: list[Any], age: float = 0) -> Any:
    return "found", values, (), age


def test_values_are_in_the_order_of_the_names() -> None:
    assert judged(("a", "b"), row(5, 1.0, 2.0)).values == [1.0, 2.0]
    assert judged(("b", "a"), row(5, 2.0, 1.0)).values == [2.0, 1.0]
    mixed = judged(("b", "c", "a"), row(5, 2.0, 1.0), row(0, 3.0))
    assert told(mixed) == result([2.0, 3.0, 1.0], age=5)
    assert mixed.event_timestamp == "2024-06-01T11:59:55Z"


def test_only_requested_views_are_read() -> None:
    [own] = planned(("c",)).keys
    assert [read.view.table for read in own.read.views] == ["two"]
    with pytest.raises(
        ServiceUnusable, match="no feature x, y that a row can hold; it has a, b, c"
    ):
        planned(("x", "a", "y"))


@pytest.mark.parametrize(
    ("ttl_seconds", "age", "status"),
    [(60, 60, "found"), (60, 61, "expired"), (0, 10**9, "found"), (60, -5, "found")],
)
def test_age_is_judged_by_the_ttl(ttl_seconds: float, age: float, status: str) -> None:
    found = judged(("a",), row(age, 0.0), ttl_seconds=ttl_seconds)
    assert found.status.value == status
    assert found.values == ([0.0] if status == "found" else None)
    assert found.missing == (() if status == "found" else ("a",))
    assert (found.event_timestamp or "").endswith("Z")


@pytest.mark.parametrize("unknown", [(None, None), row(None), row(None, None, None)])
def test_entity_that_no_view_has_is_unknown(unknown: Row) -> None:
    assert told(judged(("b", "a"), unknown)) == ("unknown", None, ("b", "a"), None)
    partly = judged(("a", "c"), (unknown[0], unknown[1] and unknown[1][:1]), row(0, 1.0))
    assert (partly.status, partly.missing) == (Status.INCOMPLETE, ("a",))


def test_nullable_features_do_not_make_an_entity_incomplete() -> None:
    assert judged(("b", "a"), row(0, None, 1.0), nullable="b").values == [None, 1.0]
    both = judged(("a", "b"), row(0, None, None), nullable="b")
    assert (both.status, both.missing) == (Status.INCOMPLETE, ("a",))
    assert judged(("a", "b"), row(0, None, None), nullable="ab").values == [None, None]


def test_unknown_and_expired_entities_stay_so_where_all_may_be_null() -> None:
    assert judged(("a",), row(None, None), nullable="a").status is Status.UNKNOWN
    assert judged(("a",), row(3600, 1.0), nullable="a").status is Status.EXPIRED
    other_view = judged(("a", "c"), row(0, 1.0), (None, None), nullable="c")
    assert told(other_view) == result([1.0, None])


def test_null_makes_an_entity_incomplete() -> None:
    found = judged(("a", "b"), row(0, 1.0, None))
    assert (found.status, found.values, found.missing) == (Status.INCOMPLETE, None, ("b",))
    assert judged(("a",), row(0, None)).status is Status.INCOMPLETE


def test_one_expired_view_expires_the_entity() -> None:
    found = judged(("c", "a"), row(0, 1.0), row(3600, 2.0))
    assert (found.status, found.missing) == (Status.EXPIRED, ("a",))
    assert found.event_timestamp == "2024-06-01T11:00:00Z"


@pytest.mark.parametrize(
    ("id_type", "good", "wrong"),
    [
        ("INT64", [0, -(1 << 63), (1 << 63) - 1], ["1", 1 << 63, -(1 << 63) - 1]),
        ("INT32", [(1 << 31) - 1], [1 << 31, "x"]),
        ("STRING", ["", "1", "é", "\U0001f33c"], [1, "a\ud800"]),
    ],
)
def test_ids_must_have_the_type_of_the_entity(
    id_type: str, good: list[Any], wrong: list[Any]
) -> None:
    invalid = ID_TYPES[id_type].find_errors([*good, *wrong], "id", "s")
    assert list(invalid) == list(range(len(good), len(good) + len(wrong)))
    assert all("must be a" in one.why and one.key == "id" for one in invalid.values())


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, serving_gateway.features, serving_gateway.features.feast_store as s, pathlib\n"
        "s.FeastStore(pathlib.Path('nowhere'))\n"
        "print([n for n in ('feast', 'pandas', 'numpy', 'pyarrow', 'redis') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
