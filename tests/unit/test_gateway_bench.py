"""The benchmark's arithmetic: no figure out of failed answers, ratios within a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import cases
from tests.benchmarks.picture import draw
from tests.benchmarks.report import table, verdict_table
from tests.benchmarks.steady import SWITCHED_RUN
from tests.benchmarks.summary import latency_ratios, summarize, throughput_ratios
from tests.benchmarks.targets import Verdict, judge_steady, judge_throughput
from tests.benchmarks.wrk import BenchmarkError, Case, Measurement, parse

REPORT = """Running 1s test @ http://127.0.0.1:8080/predict
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.74ms  510.47us   7.44ms   78.43%
  Latency Distribution
     50%  820.00us
     75%    1.10ms
     90%    1.50ms
     99%    1.20s
  4613 requests in 1.00s, 1.37MB read
Requests/sec:   4613.34
Transfer/sec:      1.37MB
"""
ROUNDS = [
    {
        ("raw", 8): Measurement(raw, 1, 2),
        ("raw too", 8): Measurement(raw * 2, 1, 2),
        ("ours", 8): Measurement(raw * ratio, ratio, 2),
    }
    for raw, ratio in ((100, 1), (1000, 3), (10, 2))
]


def test_a_report_is_read_in_milliseconds() -> None:
    found = parse(REPORT, "case")
    assert (found.per_second, found.p99_ms) == (4613.34, 1200)
    assert found.p50_ms == pytest.approx(0.82)


@pytest.mark.parametrize(
    "failure",
    [
        "  Non-2xx or 3xx responses: 3",
        "  Socket errors: connect 0, read 1, write 0, timeout 0",
    ],
)
def test_failed_answers_make_no_figure(failure: str) -> None:
    with pytest.raises(BenchmarkError, match="case"):
        parse(REPORT + failure, "case")
    with pytest.raises(BenchmarkError):
        parse(REPORT.replace("4613.34", "0.00"), "case")
    with pytest.raises(BenchmarkError):
        parse("", "case")


def test_the_script_sends_binary_bodies_and_headers_unchanged() -> None:
    script = Case("name", "http://host/", b'a"\n\x00\xff', headers={"X": "1"}).script
    assert r'wrk.body = "\097\034\010\000\255"' in script
    assert 'wrk.headers["X"] = "1"' in script
    assert "request = function" not in script
    assert "number % 150 + 1" in Case("name", "http://host/", b"{id}", 150).script


def test_ratios_are_taken_within_rounds_to_the_better_raw_case() -> None:
    rows = summarize(ROUNDS, ("raw", "raw too"))
    ours = next(row for row in rows if row["case"] == "ours")
    assert (ours["ratio"], ours["ratio_lowest"], ours["ratio_highest"]) == (1.0, 0.5, 1.5)
    assert ours["per_second"] == 100
    assert "| ours | 100 (1.00), 1.00 |" not in table(rows)
    assert "| ours | 100 (1.00), 2.00 |" in table(rows)
    assert throughput_ratios(ROUNDS, "ours", ["raw"], 8) == [1, 3, 2]
    assert latency_ratios(ROUNDS, "ours", "raw", 8) == [1, 3, 2]


def test_bounds_are_judged_by_the_median_of_the_rounds() -> None:
    def measured(case: str, factor: float) -> Measurement:
        """Every ratio of throughput that has a goal is `factor`; mirroring costs a tenth."""
        through_gateway = case not in {*cases.RAW, cases.PREDICTIONS}
        speed = factor**2 if case == cases.ENTITY_REDIS else factor
        base = 1.0 if case in cases.RAW else speed
        return Measurement(100 * base, 1.1 if through_gateway else 1.0, 2)

    names = [*cases.RAW, *(getattr(cases, name) for name in dir(cases) if name.isupper())]
    rounds = [
        {
            (name, load): measured(name, factor)
            for name in names
            if isinstance(name, str)
            for load in (1, 8)
        }
        for factor in (0.1, 1.25, 2.0)
    ]
    verdicts = judge_throughput(rounds)
    assert {one.figure: one.is_reached for one in verdicts} == {
        "/predict to the better raw Triton, 1 connections": True,
        "/predict to the better raw Triton, 8 connections": True,
        "/v2 JSON to Triton's own, 1 connections": True,
        "/v2 JSON to Triton's own, 8 connections": True,
        "/v2 binary to Triton's own, 1 connections": True,
        "/v2 binary to Triton's own, 8 connections": True,
        "p50 with mirroring to without, 8 connections": True,
    }
    assert verdicts[0].spread is not None
    assert list(verdicts[0].spread) == pytest.approx([0.1, 2.0])
    slow = judge_throughput(rounds[:1])
    assert [one.is_reached for one in slow] == [False] * 6 + [True]


def test_a_run_without_any_answer_misses_its_latency() -> None:
    run = {"switches": 3, "latency_ms": {}, "failed": 7}
    assert [one.is_reached for one in judge_steady({SWITCHED_RUN: run})] == [False, False]


def test_the_verdicts_say_what_was_missed() -> None:
    text = verdict_table(
        [
            Verdict("fast enough", 1.2, 1.25, at_least=True, spread=(1.1, 1.3)),
            Verdict("memory", 60.0, 61.0, unit="MiB"),
            Verdict("failed", 0, 0),
        ]
    )
    assert "| fast enough | ≥ 1.2 | 1.25 | 1.10 to 1.30 | yes |" in text
    assert "| memory | ≤ 60 MiB | 61.00 MiB |  | no |" in text
    assert "| failed | ≤ 0 | 0 |  | yes |" in text


def test_the_picture_is_drawn_from_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    draw(summarize(ROUNDS, ("raw", "raw too")), path)
    assert path.read_bytes().startswith(b"\x89PNG")
