"""How often drift is reported where there is none, and where there is some: simulated."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pytest

from platform_assets.monitoring.records import FEATURE
from platform_assets.monitoring.stability import ComparedRows, compare_columns
from tests.faults.scale import scale

pytestmark = pytest.mark.slow

REFERENCE: Final = 5_000
CASES: Final = {
    "nothing": "nothing",
    "half": "a number by half a standard deviation",
    "whole": "a number by a standard deviation",
    "unseen": "2 % of a text are new",
    "vanished": "a third of 300 texts vanish",
}
"""Change -> how the page calls it."""
WINDOWS: Final = {"40 × 10": (40, 10), "200": (200, 1), "2,000": (2_000, 1)}
"""Window, as the page calls it -> entities, and rows of each."""
FEW: Final = np.array(list("abcdefgh"), dtype=object)
MANY: Final = np.array([f"c{place}" for place in range(300)], dtype=object)


def drawn(random: np.random.Generator, count: int, change: str = "nothing") -> dict[str, Any]:
    """Ten columns: six of numbers, two with eight texts, two with 300."""
    columns: dict[str, Any] = {f"number {i}": random.normal(size=count) for i in range(6)}
    columns |= {f"few {i}": random.choice(FEW, count) for i in range(2)}
    columns |= {f"many {i}": random.choice(MANY, count) for i in range(2)}
    if change in {"half", "whole"}:
        columns["number 0"] = columns["number 0"] + (0.5 if change == "half" else 1.0)
    elif change == "unseen":
        columns["few 0"] = np.where(random.random(count) < 0.02, "new", columns["few 0"])
    elif change == "vanished":
        columns["many 0"] = random.choice(MANY[100:], count)
    return columns


def alarms(window: str, change: str, runs: int) -> float:
    """Share of the reports that say drift."""
    entities, repeats = WINDOWS[window]
    random = np.random.default_rng([entities, runs, *change.encode()])
    found = 0
    for _ in range(runs):
        now = {k: np.repeat(v, repeats) for k, v in drawn(random, entities, change).items()}
        columns = compare_columns(
            ComparedRows(drawn(random, REFERENCE), np.arange(REFERENCE)),
            ComparedRows(now, np.repeat(np.arange(entities), repeats)),
            kind=FEATURE,
            drift_limit=0.2,
        )
        found += any(column.drifted for column in columns)
    return found / runs


def stated() -> list[tuple[str, str, float]]:
    """The table of the page on drift: window, change, share of reports that say drift."""
    page = (files("platform_assets.monitoring") / "README.md").read_text()
    table = page.partition("<!-- drift simulations -->")[2].partition("<!-- end -->")[0]
    split = (one.strip("| ").split("|") for one in table.strip().splitlines())
    head, _, *lines = ([cell.strip() for cell in cells] for cells in split)
    return [
        (window, next(key for key, words in CASES.items() if words == change), float(cell) / 100)
        for change, *cells in lines
        for window, cell in zip(head[1:], cells, strict=True)
    ]


@pytest.mark.parametrize(("window", "change", "share"), stated())
def test_drift_is_reported_as_often_as_the_page_states(
    window: str, change: str, share: float
) -> None:
    runs = scale(10, 20)
    spread = 3.1 * math.sqrt(share * (1 - share) / runs) + 0.05
    assert alarms(window, change, runs) == pytest.approx(share, abs=spread)


def test_the_page_states_rates_that_can_be_lived_with() -> None:
    by_case = {(window, change): share for window, change, share in stated()}
    assert len(by_case) == len(WINDOWS) * len(CASES)
    for window in WINDOWS:
        assert by_case[window, "nothing"] <= 0.01
    for change in ("whole", "unseen", "vanished"):
        assert by_case["2,000", change] >= 0.99
