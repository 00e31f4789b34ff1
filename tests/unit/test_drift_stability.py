"""Which change of a column counts as drift, and which does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from platform_assets.monitoring.binning import as_text, comparable, fit, fit_numbers, fit_texts
from platform_assets.monitoring.records import FEATURE, ColumnDrift
from platform_assets.monitoring.stability import ComparedRows, chance_index, compare_columns
from platform_assets.monitoring.units import effective_rows, is_identifying, window_units
from serving_gateway.contract import LOG_ENTITY, LOG_TIME, DType

LIMIT = 0.2
ROWS = 2000


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def number(values: Any, dtype: DType = DType.FP32) -> Any:
    return comparable(pd.Series(values), dtype)


def text(values: Any, dtype: DType = DType.BYTES) -> Any:
    return comparable(pd.Series(values, dtype=object), dtype)


def side(columns: dict[str, Any], units: Any = None) -> ComparedRows:
    rows = len(next(iter(columns.values())))
    return ComparedRows(columns, np.arange(rows) if units is None else units)


def compared(reference: Any, current: Any, units: Any = None) -> ColumnDrift:
    now = side({"x": current}, units)
    [found] = compare_columns(side({"x": reference}), now, kind=FEATURE, drift_limit=LIMIT)
    return found


def test_the_same_distribution_is_not_drift() -> None:
    column = compared(number(rng(1).normal(size=ROWS)), number(rng(2).normal(size=ROWS)))
    assert column.psi < 0.05
    assert not column.drifted


def test_a_shifted_feature_is_named_and_its_neighbours_are_not() -> None:
    names = [f"f{i}" for i in range(5)]
    reference = {name: number(rng(i).normal(size=ROWS)) for i, name in enumerate(names)}
    current = {name: number(rng(50 + i).normal(size=ROWS)) for i, name in enumerate(names)}
    current["f3"] = current["f3"] + 1.0
    columns = compare_columns(side(reference), side(current), kind=FEATURE, drift_limit=LIMIT)
    assert [column.name for column in columns if column.drifted] == ["f3"]


def test_the_index_is_that_of_the_textbook() -> None:
    column = compared(text(["a"] * 60 + ["b"] * 40), text(["a"] * 30 + ["b"] * 70))
    expected = (0.3 - 0.6) * np.log(0.3 / 0.6) + (0.7 - 0.4) * np.log(0.7 / 0.4)
    assert column.psi == pytest.approx(expected)
    assert column.bins == ("a", "b")
    assert column.reference == pytest.approx((0.6, 0.4))
    assert column.current == pytest.approx((0.3, 0.7))


def test_a_new_category_drifts_and_its_share_is_reported() -> None:
    column = compared(text(["a", "b"] * 500), text(["a", "b", "new"] * 300))
    assert column.drifted
    assert column.novelty is not None
    assert column.novelty.unseen == pytest.approx(1 / 3)
    assert column.novelty.examples == ("new",)


def test_missing_values_that_appear_are_drift_of_that_feature() -> None:
    current = rng(2).normal(size=ROWS)
    current[: ROWS // 4] = np.nan
    column = compared(number(rng(1).normal(size=ROWS)), number(current))
    assert column.drifted
    assert (column.missing_reference, column.missing_current) == (0.0, 0.25)


def test_missing_values_that_stay_are_none() -> None:
    sides = [rng(seed).normal(size=ROWS) for seed in (1, 2)]
    for side in sides:
        side[: ROWS // 4] = np.nan
    assert not compared(number(sides[0]), number(sides[1])).drifted


@pytest.mark.parametrize("moved_to", [4.0, 6.0])
def test_a_constant_column_drifts_in_either_direction(moved_to: float) -> None:
    constant = number([5.0] * ROWS)
    assert not compared(constant, number([5.0] * ROWS)).drifted
    assert compared(constant, number([moved_to] * ROWS)).drifted


def test_values_that_leave_a_dominant_one_downwards_are_seen() -> None:
    reference = np.where(rng(1).random(ROWS) < 0.95, 0.0, 10.0)
    current = np.where(rng(2).random(ROWS) < 0.95, -1.0, 10.0)
    assert compared(number(reference), number(current)).drifted


def test_a_window_of_nothing_but_missing_values_is_drift() -> None:
    column = compared(number(rng(1).normal(size=ROWS)), number([np.nan] * ROWS))
    assert column.drifted
    assert column.missing_current == 1.0


def test_a_reference_of_nothing_but_missing_values_is_compared_too() -> None:
    nothing = number([np.nan] * ROWS)
    assert not compared(nothing, nothing).drifted
    assert compared(nothing, number(rng(1).normal(size=ROWS))).drifted


def test_an_outlier_does_not_hide_a_shift() -> None:
    reference, current = rng(1).normal(size=ROWS), rng(2).normal(size=ROWS) + 1
    current[0], current[1] = 1e30, np.inf
    assert compared(number(reference, DType.FP64), number(current, DType.FP64)).drifted


def test_a_float_that_went_through_json_is_still_the_same_value() -> None:
    reference = number(np.full(ROWS, np.float32(0.1)))
    assert compared(reference, number([0.1] * ROWS)).psi == pytest.approx(0)


def test_few_rows_of_one_distribution_do_not_pass_for_drift() -> None:
    """With 30 held-out rows the model's own limit alone would warn in every tenth report."""
    draws = rng()
    columns = [
        compared(text(draws.choice(["a", "b", "c"], 30)), text(draws.choice(["a", "b", "c"], 200)))
        for _ in range(300)
    ]
    assert sum(column.psi > LIMIT for column in columns) > 10
    assert sum(column.drifted for column in columns) <= 2
    assert compared(text(["a"] * 15 + ["b"] * 15), text(["a"] * 200)).drifted


def test_what_chance_gives_grows_with_bins_and_falls_with_rows() -> None:
    assert chance_index(1, 100, 100, 0.999) == 0
    assert chance_index(3, 100, 100, 0.999) < chance_index(10, 100, 100, 0.999)
    assert chance_index(3, 1000, 1000, 0.999) < chance_index(3, 100, 100, 0.999)


def test_rare_categories_share_a_few_bins() -> None:
    identifiers = text([f"id-{row}" for row in range(ROWS)])
    found = compared(identifiers, text([f"id-{row}" for row in range(ROWS, 2 * ROWS)]))
    # All are new, as all of another sample would be: that is what identifiers are like.
    assert found.novelty is not None
    assert found.novelty.unseen == 1.0
    assert not found.drifted
    assert fit_texts(text(["a"] * 99 + ["b"]), 100).categories == ("a",)


def test_categories_that_vanish_are_drift_though_each_is_rare() -> None:
    names = np.array([f"c{place}" for place in range(900)], dtype=object)
    column = compared(text(rng(1).choice(names, 20_000)), text(rng(2).choice(names[450:], ROWS)))
    assert column.drifted
    assert "vanished" in column.finding
    assert not compared(
        text(rng(1).choice(names, 20_000)), text(rng(2).choice(names, ROWS))
    ).drifted


@pytest.mark.parametrize(("share", "drifted"), [(0.02, True), (0.0, False)])
def test_a_few_texts_that_were_never_seen_are_drift(share: float, drifted: bool) -> None:
    current = rng(2).choice(list("abcd"), ROWS).astype(object)
    current[: int(share * ROWS)] = "NEW"
    column = compared(text(rng(1).choice(list("abcd"), ROWS)), text(current))
    assert column.psi < LIMIT
    assert column.drifted is drifted


def test_a_rare_category_that_becomes_frequent_among_rare_ones_is_drift() -> None:
    names = np.array([f"c{place}" for place in range(100)], dtype=object)
    current = rng(2).choice(names, 200)
    assert not compared(text(rng(1).choice(names, 5_000)), text(current)).drifted
    current[:80] = "c7"
    assert compared(text(rng(1).choice(names, 5_000)), text(current)).drifted


@pytest.mark.parametrize("kind", ["numbers", "texts"])
def test_rows_of_few_entities_count_as_few(kind: str) -> None:
    draws = rng()
    alarms = rows = 0
    for _ in range(60):
        if kind == "numbers":
            before, entities = number(draws.normal(size=5_000)), draws.normal(size=40)
            now = number(np.repeat(entities, 10))
        else:
            names = np.array([f"c{place}" for place in range(60)], dtype=object)
            before, now = (
                text(draws.choice(names, 5_000)),
                text(np.repeat(draws.choice(names, 40), 10)),
            )
        units = np.repeat(np.arange(40), 10)
        alarms += compared(before, now, units).drifted
        rows += compared(before, now).drifted
    assert alarms <= 1
    assert rows > 20


def test_rows_of_one_entity_that_differ_count_each() -> None:
    codes = rng().integers(0, 5, 400)
    alone, alike = (
        effective_rows(codes, np.arange(400) // 10),
        np.repeat(rng().integers(0, 5, 40), 10),
    )
    assert alone > 300
    assert effective_rows(alike, np.arange(400) // 10) == pytest.approx(40, rel=0.05)
    assert effective_rows(codes, np.arange(400)) == 400


def test_requests_with_the_same_rows_are_of_one_entity_where_rows_identify_it() -> None:
    times = pd.to_datetime(np.arange(40) // 2, unit="s", utc=True)
    entities = ["7", "7", *[None] * 38]
    table = pa.table({LOG_TIME: times, LOG_ENTITY: entities})
    answered = {"x": number(np.r_[[1.0, 2.0], np.tile([3.0, 4.0], 10), np.arange(18)])}
    once = [0, 0, *[1] * 20, *np.repeat(np.arange(2, 11), 2)]
    assert window_units(table, answered, identifying=True).tolist() == once
    each = np.repeat(np.arange(20), 2).tolist()
    assert window_units(table, answered, identifying=False).tolist() == each
    assert is_identifying({"x": number(rng().normal(size=50))}, np.arange(50))
    assert not is_identifying({"x": text(list("ab") * 25)}, np.arange(50))


def test_rows_of_several_keys_are_of_the_entity_of_the_first() -> None:
    pairs = [(7, 1), (7, 2), (8, 1), ("7", 1), (7, 1)]
    entities = [json.dumps({"customer": one, "shop": other}) for one, other in pairs]
    entities += ['{"shop":7}', "7", "{7", "{}", '{"customer": 7, "shop": 3}', '{"a":' * 50_000]
    times = pd.to_datetime(np.arange(len(entities)), unit="s", utc=True)
    table = pa.table({LOG_TIME: times, LOG_ENTITY: entities})
    assert window_units(table, {}, identifying=False).tolist() == [0, 0, 1, 2, 0, 3, 4, 5, 6, 0, 7]


def test_rows_without_any_entity_are_told_apart_by_their_requests() -> None:
    times = pd.to_datetime(np.arange(6), unit="s", utc=True)
    entities = pa.array([None] * 6, pa.string())
    table = pa.table({LOG_TIME: times, LOG_ENTITY: entities})
    assert window_units(table, {}, identifying=False).tolist() == [0, 1, 2, 3, 4, 5]


def test_each_row_of_a_few_large_requests_counts() -> None:
    table = pa.table({LOG_TIME: pd.to_datetime([0, 0, 0, 1, 1, 1], unit="s", utc=True)})
    answered = {"x": number([1.0, 2.0, 3.0, 1.0, 5.0, 6.0])}
    assert window_units(table, answered, identifying=False).tolist() == [0, 1, 2, 3, 4, 5]
    assert window_units(table, answered, identifying=True).tolist() == [0, 1, 2, 0, 3, 4]


def test_booleans_in_tensor_form_are_the_same_words() -> None:
    assert text([1.0, 0.0, np.nan], DType.BOOL).tolist() == ["true", "false", None]


def test_texts_like_dates_and_names_like_ours_are_compared_as_any_other() -> None:
    reference = side({"side": text(["2024-01-01", "2024-01-02"] * 100)})
    current = side({"side": text(["2024-01-01"] * 200)})
    [column] = compare_columns(reference, current, kind=FEATURE, drift_limit=LIMIT)
    assert column.name == "side"
    assert column.drifted


def test_booleans_and_empty_text() -> None:
    assert text([True, False, None], DType.BOOL).tolist() == ["true", "false", None]
    assert text(["a", "", None]).tolist() == ["a", None, None]
    assert [as_text(value) for value in (np.bool_(True), np.int64(3), "x")] == ["true", "3", "x"]


def test_every_value_has_one_bin_with_a_name() -> None:
    values = number([*rng(1).normal(size=ROWS), *[0.0] * ROWS, np.inf, -np.inf, np.nan])
    bins = fit_numbers(values, 10)
    codes = bins.codes(values)
    assert codes.min() == 0
    assert codes.max() == len(bins.labels) - 1
    assert set(codes[values == 0.0]) == {bins.labels.index("= 0")}
    assert len(set(bins.labels)) == len(bins.labels)


def test_few_rows_make_few_bins() -> None:
    values = number(rng(1).normal(size=ROWS))
    assert len(fit(values, 40).labels) < len(fit(values, ROWS).labels)


def test_a_side_without_rows_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="window has no rows of x"):
        compared(number([1.0, 2.0]), number([]))
