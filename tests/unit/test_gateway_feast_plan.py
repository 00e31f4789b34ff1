"""What an online store's rows mean: order, age, nulls, and several views of one entity."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving_gateway.features.feast_plan import Plan, Question, Row, View, assemble
from serving_gateway.features.types import Found, InvalidEntityIds, ServiceUnusable, Status

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAN = float("nan")


def value(plain: Any) -> Any:
    kind = None if plain is None else "float_val"
    return SimpleNamespace(float_val=plain, WhichOneof=lambda _: kind)


def row(stamp: datetime | None, **values: Any) -> Row:
    return stamp, {name: value(plain) for name, plain in values.items()}


def plan(ttl_seconds: float = 60, id_type: str = "INT64") -> Plan:
    views = [View("one", "id", ttl_seconds), View("two", "id", 0)]
    columns = {"a": (0, "a"), "b": (0, "b"), "c": (1, "c")}
    return Plan("s", views, id_type, columns)


def judged(
    names: tuple[str, ...], *rows: Row, ttl_seconds: float = 60, nullable: str = ""
) -> Found:
    reads = plan(ttl_seconds).reads(names)
    question = Question("s", names, [1], frozenset(nullable))
    [found] = assemble(question, reads, [[one] for one in rows], NOON.timestamp())
    return found


def test_values_stand_in_the_order_of_the_names() -> None:
    stamp = NOON - timedelta(seconds=5)
    one = row(stamp, a=1.0, b=2.0)
    assert judged(("a", "b"), one).values == [1.0, 2.0]
    assert judged(("b", "a"), one).values == [2.0, 1.0]
    mixed = judged(("b", "c", "a"), one, row(NOON, c=3.0))
    assert mixed == Found(Status.FOUND, [2.0, 3.0, 1.0], (), stamp)
    assert mixed.event_timestamp == "2024-06-01T11:59:55Z"


def test_only_views_that_are_asked_for_are_read() -> None:
    assert [read.view.table for read in plan().reads(("c",))] == ["two"]
    with pytest.raises(
        ServiceUnusable, match="no feature x, y that a row can hold; it has a, b, c"
    ):
        plan().reads(("x", "a", "y"))


@pytest.mark.parametrize("zone", [UTC, None])
@pytest.mark.parametrize(
    ("ttl_seconds", "age", "status"),
    [(60, 60, "found"), (60, 61, "expired"), (0, 10**9, "found"), (60, -5, "found")],
)
def test_age_is_judged_by_the_ttl(zone: Any, ttl_seconds: float, age: float, status: str) -> None:
    stamp = (NOON - timedelta(seconds=age)).replace(tzinfo=zone)
    found = judged(("a",), row(stamp, a=0.0), ttl_seconds=ttl_seconds)
    assert found.status.value == status
    assert found.values == ([0.0] if status == "found" else None)
    assert found.missing == (() if status == "found" else ("a",))
    assert (found.event_timestamp or "").endswith("Z")


@pytest.mark.parametrize("unknown", [(None, None), (EPOCH, {}), row(EPOCH, a=None, b=None)])
def test_an_entity_that_no_view_knows_is_unknown(unknown: Row) -> None:
    assert judged(("b", "a"), unknown) == Found(Status.UNKNOWN, None, ("b", "a"), None)
    partly = judged(("a", "c"), unknown, row(NOON, c=1.0))
    assert (partly.status, partly.missing) == (Status.INCOMPLETE, ("a",))


@pytest.mark.parametrize("null", [None, NAN, ""])
def test_what_may_be_null_does_not_make_an_entity_incomplete(null: float | str | None) -> None:
    found = judged(("b", "a"), row(NOON, a=1.0, b=null), nullable="b")
    assert found == Found(Status.FOUND, [None, 1.0], (), NOON)
    both = judged(("a", "b"), row(NOON, a=null, b=null), nullable="b")
    assert (both.status, both.missing) == (Status.INCOMPLETE, ("a",))
    nothing = judged(("a", "b"), row(NOON, a=null, b=null), nullable="ab")
    assert nothing == Found(Status.FOUND, [None, None], (), NOON)


def test_an_unknown_or_expired_entity_is_so_also_where_all_may_be_null() -> None:
    assert judged(("a",), row(EPOCH, a=None), nullable="a").status is Status.UNKNOWN
    old = row(NOON - timedelta(hours=1), a=1.0)
    assert judged(("a",), old, nullable="a").status is Status.EXPIRED
    other_view = judged(("a", "c"), row(NOON, a=1.0), (None, None), nullable="c")
    assert other_view == Found(Status.FOUND, [1.0, None], (), NOON)


@pytest.mark.parametrize("null", [None, NAN, ""])
def test_null_is_never_a_value(null: float | str | None) -> None:
    found = judged(("a", "b"), row(NOON, a=1.0, b=null))
    assert (found.status, found.values, found.missing) == (Status.INCOMPLETE, None, ("b",))
    assert judged(("a", "b"), row(NOON, a=1.0)).missing == ("b",), "not stored yet"
    assert judged(("a",), row(NOON, a=null)).status is Status.INCOMPLETE


def test_one_expired_view_is_enough() -> None:
    old = NOON - timedelta(hours=1)
    found = judged(("c", "a"), row(NOON, c=1.0), row(old, a=2.0))
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
def test_ids_must_be_of_the_entity_s_type(id_type: str, good: list[Any], wrong: list[Any]) -> None:
    one = plan(id_type=id_type)
    one.check(good)
    with pytest.raises(InvalidEntityIds) as caught:
        one.check([*good, *wrong])
    assert list(caught.value.wrong) == list(range(len(good), len(good) + len(wrong)))
    assert caught.value.field == f"entity_ids[{len(good)}]"


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
