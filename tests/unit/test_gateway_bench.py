"""The benchmark's arithmetic: no figure out of failed answers, ratios within a round."""

from __future__ import annotations

import pytest

from tests.benchmarks.wrk import BenchmarkError, Measurement, parse, summarize, table

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


def test_ratios_are_taken_within_rounds_to_the_better_raw_case() -> None:
    rounds = [
        {
            ("raw", 8): Measurement(raw, 1, 2),
            ("raw too", 8): Measurement(raw * 2, 1, 2),
            ("ours", 8): Measurement(raw * ratio, 1, 2),
        }
        for raw, ratio in ((100, 1), (1000, 3), (10, 2))
    ]
    rows = summarize(rounds, ("raw", "raw too"))
    ours = next(row for row in rows if row["case"] == "ours")
    assert (ours["ratio"], ours["ratio_lowest"], ours["ratio_highest"]) == (1.0, 0.5, 1.5)
    assert ours["per_second"] == 100
    assert "| ours | 100 (1.00), 1.00 |" in table(rows)
