"""Measures one address with wrk, and makes a table of many measurements: pure but for `run`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}
RAW = "raw Triton"


class BenchmarkError(Exception):
    """A measurement that means nothing: errors among the answers, or none at all."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Requests per second, and the latency in milliseconds."""

    per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table: what is asked, with which body."""

    name: str
    url: str
    body: str
    """`{id}` stands for a number that differs from request to request."""
    ids: int = 1
    """How many of those there are, from 1 on."""

    @property
    def script(self) -> str:
        """What wrk sends."""
        fixed = (
            'wrk.method = "POST"\n'
            f"wrk.body = [==[{self.body}]==]\n"
            'wrk.headers["Content-Type"] = "application/json"\n'
        )
        if "{id}" not in self.body:
            return fixed
        before, _, after = self.body.partition("{id}")
        return (
            f"{fixed}local number = 0\n"
            "request = function()\n"
            f"  number = number % {self.ids} + 1\n"
            f"  return wrk.format(nil, nil, nil, [==[{before}]==] .. number .. [==[{after}]==])\n"
            "end\n"
        )


def run(case: Case, connections: int, seconds: int, folder: Path) -> Measurement:
    """Load one address from one thread.

    Raises:
        BenchmarkError: an answer was not 2xx, a connection failed, or wrk did.
    """
    script = folder / "request.lua"
    script.write_text(case.script)
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*argv, case.url], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{case.name}: {done.stdout}{done.stderr}")
    return parse(done.stdout, case.name)


def parse(text: str, name: str) -> Measurement:
    """Read wrk's report.

    Raises:
        BenchmarkError: it tells of failures, or is no report.
    """
    for sign in ("Non-2xx", "Socket errors"):
        if sign in text:
            line = next(line for line in text.splitlines() if sign in line)
            raise BenchmarkError(f"{name}: {line.strip()}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None or float(rate[1]) == 0:
        raise BenchmarkError(f"{name}: no requests were answered:\n{text}")
    return Measurement(float(rate[1]), _percentile(text, "50"), _percentile(text, "99"))


def _percentile(text: str, percent: str) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"no {percent} % in:\n{text}")
    return float(found[1]) * _UNITS[found[2]]


Rounds = Sequence[Mapping[tuple[str, int], Measurement]]


def summarize(rounds: Rounds, raw: Sequence[str]) -> list[dict[str, object]]:
    """Medians over the rounds, per case and number of connections.

    The ratio is taken within each round, to the better of the `raw` cases in it, so that a slow
    moment of the machine weighs on both sides.
    """
    rows: list[dict[str, object]] = []
    for name, connections in rounds[0]:
        here = [found[name, connections] for found in rounds]
        ratios = [
            found[name, connections].per_second
            / max(found[case, connections].per_second for case in raw)
            for found in rounds
        ]
        rows.append(
            {
                "case": name,
                "connections": connections,
                "per_second": round(median(m.per_second for m in here), 1),
                "ratio": round(median(ratios), 3),
                "ratio_lowest": round(min(ratios), 3),
                "ratio_highest": round(max(ratios), 3),
                "p50_ms": round(median(m.p50_ms for m in here), 3),
                "p99_ms": round(median(m.p99_ms for m in here), 3),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """The summary as a Markdown table: one line per case, one column per load."""
    loads = list(dict.fromkeys(row["connections"] for row in rows))
    lines = [
        "| requests/s (ratio to raw Triton), p50 ms | "
        + " | ".join(f"{load} connections" for load in loads)
        + " |",
        "|---" * (len(loads) + 1) + "|",
    ]
    for name in dict.fromkeys(row["case"] for row in rows):
        cells = [
            f"{row['per_second']:,.0f} ({row['ratio']:.2f}), {row['p50_ms']:.2f}"
            for row in rows
            if row["case"] == name
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
