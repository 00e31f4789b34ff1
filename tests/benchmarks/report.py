"""The report of a run in Markdown, ready for a README: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.benchmarks.targets import Verdict

BACKEND = (
    "Triton here runs ONNX Runtime in its Python backend; the C++ backend of NVIDIA's container "
    "costs less by request. Gateways, no-op application and HAProxy use one process on one core "
    "at most; load, servers and Triton share the machine."
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The closed loop: one line per case, one column per load."""
    loads = list(dict.fromkeys(row["connections"] for row in rows))
    columns = [f"{load} connection{'s' if load != 1 else ''}" for load in loads]
    lines = _header("requests/s (ratio to the better raw Triton), p50 ms", columns)
    for name in dict.fromkeys(row["case"] for row in rows):
        cells = [
            f"{row['per_second']:,.0f} ({row['ratio']:.2f}), {row['p50_ms']:.2f}"
            for row in rows
            if row["case"] == name
        ]
        lines.append(_line([name, *cells]))
    return "\n".join(lines)


def throughput(rows: Sequence[Mapping[str, Any]], rounds: int, seconds: int) -> str:
    """The closed loop, with what has to be known beside it."""
    how = f"Medians of {rounds} rounds of {seconds} s, 0 answers other than 2xx."
    return f"{table(rows)}\n\n{how} {BACKEND}"


def open_loop_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The open loop: one line per run."""
    columns = ["requests/s", "p50", "p99", "p99.9", "max", "failed", "switches"]
    columns += ["sent late, p99.9", "generator"]
    lines = _header("open loop, ms from the scheduled time", columns)
    for name, run in figures.items():
        latency, lag = run["latency_ms"], run["send_lag_ms"]
        lines.append(
            _line(
                [
                    name,
                    f"{run['rate']:,.0f}",
                    *(f"{latency.get(p, 0):.2f}" for p in ("p50", "p99", "p99.9", "max")),
                    f"{run['failed']:,}",
                    str(run.get("switches", 0)),
                    f"{lag.get('p99.9', 0):.2f}",
                    f"{run['generator_cpu_us']:.0f} µs CPU/request",
                ]
            )
        )
    return "\n".join(lines)


def cpu_line(figures: Mapping[str, Any]) -> str:
    """CPU in-process."""
    return (
        f"CPU of one plain /predict in-process, without sockets: {figures['gateway_us']:.1f} µs; "
        f"no-op uvicorn application: {figures['noop_us']:.1f} µs; ratio {figures['ratio']:.2f} "
        f"(best of {figures['batches']} batches each; median of the paired batches "
        f"{figures['ratio_median']:.2f})."
    )


def lookups_line(figures: Mapping[str, Any]) -> str:
    """Features by several keys."""
    return (
        f"CPU of one /predict in-process with features from Redis: {figures['one_view_us']:.1f} µs "
        f"for one view, {figures['three_views_us']:.1f} µs for three views by three keys and two "
        f"request features; ratio {figures['ratio']:.2f} (best batches; median of the paired ones "
        f"{figures['ratio_median']:.2f}). A look-up of {figures['entities']} entities in the three "
        f"views: {figures['look_up_ms']:.2f} ms (median {figures['look_up_median_ms']:.2f})."
    )


def logging_line(figures: Mapping[str, Any]) -> str:
    """The prediction log."""
    return (
        f"Logging every request: {figures['best_ratio']:.3f} of the throughput without at 64 "
        f"connections (best of {len(figures['ratios'])} pairs; median "
        f"{figures['median_ratio']:.3f}), {figures['rows_lost']} rows lost."
    )


def drills_line(figures: Mapping[str, Any]) -> str:
    """Rollbacks."""
    times = figures["convergence_ms"]
    return (
        f"Rollback from request to all of {figures['replicas']} replicas on Redis, under load: "
        f"p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms, max {times['max']:.1f} ms over "
        f"{figures['drills']:,} drills; {figures['failed']} of {figures['requests']:,} requests "
        "failed."
    )


def memory_line(figures: Mapping[str, float]) -> str:
    """Resident memory."""
    return (
        "Resident after load: "
        + ", ".join(f"{mib:.0f} MiB ({name})" for name, mib in figures.items())
        + "."
    )


def many_models_line(figures: Mapping[str, Any]) -> str:
    """Idle models."""
    return (
        f"{figures['models']} idle models with two variants each, records on Redis: "
        f"{figures['cpu_percent_of_a_core']:.1f} % of a core, {figures['redis_connections']} Redis "
        f"connections, {figures['redis_commands_per_second']:.0f} commands/s, "
        f"{figures['triton_probes_per_second']:.0f} probes/s, {figures['resident_mib']:.0f} MiB, "
        f"slowest of 50 GET /health {figures['slowest_health_ms']:.0f} ms."
    )


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Every figure that has a bound."""
    lines = _header("figure", ["goal", "measured", "rounds", "reached"])
    for one in verdicts:
        sign = "≥" if one.at_least else "≤"
        digits = 0 if one.bound == 0 else 2
        spread = "" if one.spread is None else f"{one.spread[0]:.2f} to {one.spread[1]:.2f}"
        goal = f"{sign} {one.bound:g} {one.unit}".strip()
        measured = f"{one.measured:.{digits}f} {one.unit}".strip()
        lines.append(_line([one.figure, goal, measured, spread, "yes" if one.is_reached else "no"]))
    return "\n".join(lines)


def _header(first: str, columns: Sequence[str]) -> list[str]:
    return [_line([first, *columns]), "|---" * (len(columns) + 1) + "|"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
