"""The page of the cases: a table of what proves each, the results of the long form, a plot."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.faults.cases import AREAS, CASES, Case

FOLDER: Final = Path(__file__).parent
README: Final = FOLDER / "README.md"
RESULTS: Final = FOLDER / "results.json"
PLOT: Final = FOLDER / "long-form.png"
START, END = "<!-- cases: python -m tests.faults --page -->", "<!-- end of cases -->"


class Result(msgspec.Struct, frozen=True):
    """What one long form came to; `date` is RFC 3339, `seconds` of the whole run."""

    date: str
    machine: str
    is_good: bool
    seconds: float
    figures: Mapping[str, Any]


def read_results() -> dict[str, Result]:
    """The results kept, by the name of the case."""
    if not RESULTS.exists():
        return {}
    return msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, Result])


def write_results(results: Mapping[str, Result]) -> None:
    """Keep them."""
    RESULTS.write_text(json.dumps(msgspec.to_builtins(results), indent=1) + "\n", encoding="utf-8")


def rewritten(page: str) -> str:
    """The page with fresh tables."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{tables(read_results())}\n{END}{rest.partition(END)[2]}"


def tables(results: Mapping[str, Result]) -> str:
    """What proves each case, and what the long form came to."""
    lines = ["| case | guard | tests in CI |", "|---|---|---|"]
    for area, cases in AREAS.items():
        for case in cases:
            tests = "<br>".join(map(_link, case.tests))
            lines.append(f"| {area}: {case.name} | {case.guard} | {tests} |")
    return "\n".join([*lines, "", "### Long form", "", *_long(CASES, results)])


def _long(cases: Sequence[Case], results: Mapping[str, Result]) -> list[str]:
    lines = ["| case | command: `python -m ...` | result |", "|---|---|---|"]
    for case in cases:
        if not case.long:
            continue
        command = " ".join(case.long)
        prefix = "FAULTS=long, " if case.figures else ""
        lines.append(
            f"| {case.name} | {prefix}`{command}` | {_described(results.get(case.name))} |"
        )
    return lines


def _described(result: Result | None) -> str:
    if result is None:
        return "not run yet"
    figures = ", ".join(
        f"{name} {_short(value)}"
        for name, value in result.figures.items()
        if not isinstance(value, list) and value != {}  # too long for a line, or empty
    )
    verdict = "good" if result.is_good else "**failed**"
    return f"{verdict} in {result.seconds:,.0f} s: {figures} ({result.date[:10]}, {result.machine})"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_short(one)}" for key, one in value.items()) + ")"
    if isinstance(value, float):
        value = round(value, 3)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _link(node: str) -> str:
    path, _, name = node.partition("::")
    up = "." if path.startswith("tests/faults/") else ".."
    place = path.removeprefix("tests/faults/").removeprefix("tests/")
    return f"[{name.removeprefix('test_').replace('_', ' ')}]({up}/{place})"


def draw(results: Mapping[str, Result], path: Path = PLOT) -> None:
    """Plot requests, failures and the longest answer of each long form that counts requests."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counted = {name: one.figures for name, one in results.items() if "requests" in one.figures}
    names = [textwrap.shorten(name, 40, placeholder=" ...") for name in counted]
    figure, (many, slow) = plt.subplots(1, 2, figsize=(12, 0.6 * len(counted) + 1.5), sharey=True)
    requests = [int(one["requests"]) for one in counted.values()]
    texts = [_counts(one) for one in counted.values()]
    many.bar_label(many.barh(names, requests, color="tab:blue"), texts, padding=3, fontsize=8)
    many.set(xlabel="requests", xscale="log", xlim=(1, max(requests) * 200))
    longest = [_longest(one) for one in counted.values()]
    texts = [f"{one:,.0f} ms" if one else "not measured" for one in longest]
    slow.bar_label(slow.barh(names, longest, color="tab:orange"), texts, padding=3, fontsize=8)
    slow.set(xlabel="longest answer, ms", xlim=(0, max(longest) * 1.3))
    many.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _counts(figures: Mapping[str, Any]) -> str:
    parts = [f"{figures[key]:,} {key}" for key in ("failed", "refused") if key in figures]
    return ", ".join([f"{figures['requests']:,}", *parts])


def _longest(figures: Mapping[str, Any]) -> float:
    latency = figures.get("latency_ms", {})
    return float(figures.get("longest_answer_ms") or latency.get("highest") or 0.0)


def machine() -> str:
    """The processors and the memory of this machine."""
    text = Path("/proc/meminfo").read_text(encoding="utf-8")
    return f"{os.cpu_count()} cores, {int(text.split()[1]) // 2**20} GiB"
