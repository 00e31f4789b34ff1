"""A candidate against production on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from platform_assets.serving import champion
from platform_assets.serving.champion import Duel, duel
from platform_assets.serving.pictures import duel_picture

ROWS = 200
GROUPS = np.arange(ROWS) // 2


def share_right(right: np.ndarray[Any, Any]) -> Callable[[Any], float]:
    return lambda rows: float(right[rows].mean())


def fought(
    new: np.ndarray[Any, Any], old: np.ndarray[Any, Any], *, greater_is_better: bool = True
) -> Duel:
    return duel(
        share_right(new),
        share_right(old),
        GROUPS,
        greater_is_better=greater_is_better,
        confidence=0.95,
        seed=1,
    )


def right(share: float) -> np.ndarray[Any, Any]:
    """Which rows are answered right, whole entities at a time."""
    return (np.arange(ROWS // 2) < share * ROWS / 2).repeat(2)


def test_equal_models_differ_in_nothing() -> None:
    result = fought(right(0.9), right(0.9))
    assert (result.gain, result.low, result.high) == (0, 0, 0)
    assert result.regression(0.0) is None


def test_a_candidate_that_is_much_worse_is_a_regression() -> None:
    result = fought(right(0.7), right(0.9))
    assert result.gain == pytest.approx(-0.2)
    assert result.low < -0.2 < result.high < 0
    assert "worse by 0.2" in (result.regression(0.02) or "")


def test_a_loss_that_is_tolerated_still_is_none_when_it_is_certain() -> None:
    result = fought(right(0.7), right(0.9))
    assert "worse with confidence" in (result.regression(0.5) or "")


def test_a_small_loss_that_may_be_chance_passes() -> None:
    new = right(0.9)
    new[-1] = True  # wins one row, loses two others
    new[:2] = False
    result = fought(new, right(0.9))
    assert result.gain < 0 < result.high
    assert result.regression(0.02) is None


def test_for_an_error_less_is_better() -> None:
    result = fought(right(0.2), right(0.5), greater_is_better=False)
    assert result.gain == pytest.approx(0.3)
    assert result.low > 0


def test_rows_of_an_entity_are_drawn_together() -> None:
    # Within each entity one row is won and one lost: between entities nothing varies.
    new = np.arange(ROWS) % 2 == 0
    result = fought(new, ~new)
    assert result.gain == result.low == result.high == 0


def test_the_same_rows_give_the_same_interval() -> None:
    assert fought(right(0.8), right(0.85)) == fought(right(0.8), right(0.85))


def test_samples_without_a_metric_are_left_out() -> None:
    def sometimes(rows: Any) -> float:
        return float("nan") if len(np.unique(rows)) < ROWS * 0.6 else 1.0

    result = duel(
        sometimes,
        share_right(right(0.5)),
        np.arange(ROWS),
        greater_is_better=True,
        confidence=0.95,
        seed=1,
    )
    assert 0 < len(result.gains) <= champion.RESAMPLES
    assert np.isfinite(result.low)


def test_very_many_rows_are_thinned_for_the_interval_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def counted(rows: Any) -> float:
        seen.append(len(rows))
        return 1.0

    monkeypatch.setattr(champion, "MOST_ROWS", 50)
    duel(counted, counted, GROUPS, greater_is_better=True, confidence=0.9, seed=1, resamples=3)
    assert seen[:2] == [ROWS, ROWS]
    assert set(seen[2:]) == {50}


@pytest.mark.parametrize("beside", [0.1, np.nextafter(0.1, 1), 0.3])
def test_versions_that_hardly_differ_have_a_picture_too(beside: float) -> None:
    result = Duel(0.9, 0.8, gain=0.1, low=0.1, high=beside, gains=(0.1, beside))
    assert duel_picture(result, "accuracy", 0.0, 2, 1).startswith(b"\x89PNG")


def test_large_gains_that_hardly_differ_have_a_picture_too() -> None:
    result = Duel(1e6, 2e6, gain=1e6, low=1e6, high=1e6, gains=(1e6, 1e6 + 2e-9))
    assert duel_picture(result, "mean_absolute_error", 0.0, 2, 1).startswith(b"\x89PNG")
