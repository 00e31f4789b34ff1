"""The figures that the gateway is held to, and whether a run reached them: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks import cases
from tests.benchmarks.steady import SWITCHED_RUN
from tests.benchmarks.summary import Rounds, latency_ratios, throughput_ratios

THROUGHPUT = (
    ("/predict to the better raw Triton", cases.PREDICTIONS, cases.RAW, {1: 0.62, 8: 1.2, 64: 2.5}),
    ("/v2 JSON to Triton's own", cases.V2_JSON, (cases.JSON_OFF,), {1: 0.6, 8: 0.9, 64: 1.0}),
    ("/v2 binary to Triton's own", cases.V2_BINARY, (cases.BINARY_OFF,), {1: 0.6, 8: 1.0, 64: 1.2}),
    ("entity_id (Redis) to rows", cases.ENTITY_REDIS, (cases.PREDICTIONS,), {64: 0.7}),
)
"""Name, case, cases to whose best it is compared, least ratio by connections."""
MIRRORING = {8: 1.1}
"""Largest p50 with mirroring, as a multiple of the one without, by connections."""
CPU_MICROSECONDS, CPU_RATIO = 45.0, 1.6
LOGGING_RATIO = 0.95
LOOKUP_RATIO, LOOKUP_MS = 1.5, 2.0
P999_MS, ROLLBACK_P99_MS = 10.0, 50.0
MEMORY_MIB = {"one model": 60.0, "ten models": 70.0}

MANY_MODELS = (
    ("CPU", "cpu_percent_of_a_core", 5.0, "% of a core"),
    ("Redis connections", "redis_connections", 4.0, ""),
    ("Redis commands", "redis_commands_per_second", 50.0, "/s"),
    ("probes of Triton", "triton_probes_per_second", 50.0, "/s"),
    ("memory", "resident_mib", 120.0, "MiB"),
)
"""Figure, key, largest value, unit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure against its bound."""

    figure: str
    bound: float
    measured: float
    at_least: bool = False
    """Whether the bound is the least that is wanted, rather than the most."""
    unit: str = ""
    spread: tuple[float, float] | None = None
    """The lowest and the highest of the rounds."""

    @property
    def is_reached(self) -> bool:
        """Whether the bound holds."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def judge_throughput(rounds: Rounds) -> list[Verdict]:
    """Ratios of the closed loop: medians over the rounds."""
    measured = {connections for _, connections in rounds[0]}
    verdicts = [
        _of_rounds(
            f"{name}, {connections} connections",
            throughput_ratios(rounds, case, bases, connections),
            bound,
            at_least=True,
        )
        for name, case, bases, bounds in THROUGHPUT
        for connections, bound in bounds.items()
        if connections in measured
    ]
    verdicts += [
        _of_rounds(
            f"p50 with mirroring to without, {connections} connections",
            latency_ratios(rounds, cases.MIRROR, cases.PREDICTIONS, connections),
            bound,
        )
        for connections, bound in MIRRORING.items()
        if connections in measured
    ]
    return verdicts


def _of_rounds(
    figure: str, ratios: Sequence[float], bound: float, *, at_least: bool = False
) -> Verdict:
    spread = (min(ratios), max(ratios))
    return Verdict(figure, bound, median(ratios), at_least=at_least, spread=spread)


def judge_cpu(figures: Mapping[str, Any]) -> list[Verdict]:
    """CPU of one plain /predict in-process."""
    return [
        Verdict("CPU of /predict in-process", CPU_MICROSECONDS, figures["gateway_us"], unit="µs"),
        Verdict("CPU of /predict to the no-op application", CPU_RATIO, figures["ratio"]),
    ]


def judge_lookups(figures: Mapping[str, Any]) -> list[Verdict]:
    """Features by several keys."""
    many = f"look-up of {figures['entities']} entities in three views"
    return [
        Verdict("CPU with three views to one", LOOKUP_RATIO, figures["ratio"]),
        Verdict(many, LOOKUP_MS, figures["look_up_median_ms"], unit="ms"),
    ]


def judge_logging(figures: Mapping[str, Any]) -> list[Verdict]:
    """Every request logged, next to none."""
    name = "throughput with all requests logged to none, 64 connections"
    return [
        Verdict(name, LOGGING_RATIO, figures["median_ratio"], at_least=True),
        Verdict("rows that were not logged", 0, figures["rows_lost"]),
    ]


def judge_steady(figures: Mapping[str, Mapping[str, Any]]) -> list[Verdict]:
    """The open loop with switches."""
    run = figures[SWITCHED_RUN]
    p999 = run["latency_ms"].get("p99.9", float("inf"))
    name = f"open loop, {run['switches']} switches"
    return [
        Verdict(f"{name}: p99.9", P999_MS, p999, unit="ms"),
        Verdict(f"{name}: failed requests", 0, run["failed"]),
    ]


def judge_drills(figures: Mapping[str, Any]) -> list[Verdict]:
    """Rollbacks under load."""
    name = f"rollback of {figures['replicas']} replicas, {figures['drills']} drills"
    p99 = figures["convergence_ms"]["p99"]
    return [
        Verdict(f"{name}: p99", ROLLBACK_P99_MS, p99, unit="ms"),
        Verdict(f"{name}: failed requests", 0, figures["failed"]),
    ]


def judge_memory(figures: Mapping[str, float]) -> list[Verdict]:
    """Resident memory after load."""
    return [
        Verdict(f"memory, {name}", bound, figures[name], unit="MiB")
        for name, bound in MEMORY_MIB.items()
    ]


def judge_many_models(figures: Mapping[str, Any]) -> list[Verdict]:
    """The idle cost of hundreds of models."""
    name = f"{figures['models']} idle models"
    return [
        Verdict(f"{name}: {figure}", bound, figures[key], unit=unit)
        for figure, key, bound, unit in MANY_MODELS
    ]
