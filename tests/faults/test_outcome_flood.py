"""A flood of outcomes during a release costs no client, no memory, and no verdict.

Honest clients report what became of their predictions; others report as much as the route takes,
of the same predictions and of ones that never were: again, otherwise, late.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from platform_assets.model_spec import Gates, Target, Task
from platform_assets.release.losses import candidate_losses
from serving_gateway.contract import (
    MAX_OUTCOMES,
    Guard,
    PairedOutcomes,
    Release,
    ReleaseEvidence,
    ReleaseReport,
    Verdict,
    decide,
    judge_guards,
)
from tests.faults.scale import report, scale
from tests.support.connection import Connection
from tests.support.footprint import MIB, Memory
from tests.support.gateway_harness import ROW, RunningGateway
from tests.support.models import IRIS
from tests.support.servers import wait_until

_SPEC: Final = replace(
    IRIS, task=Task.BINARY, target=Target("label", classes=(1, 2)), gates=Gates(metric_floor=0.5)
)
"""Version 1 of the fixture answers 1, version 2 answers 2."""
_TRUTH, _LIE = 1, 2
_CLIENTS: Final = 4
_FLOODS: Final = 64
_ROUNDS: Final = scale(2, 20)
_ROUND_SECONDS: Final = scale(1.5, 5.0)
_PAUSE_SECONDS: Final = 0.02
_MOST_MIB: Final = 200.0
"""The queue may hold 32 MiB by its own count, which is a sixth of that in bodies."""
_LONGEST_SECONDS: Final = 2.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


@pytest.fixture(scope="module")
def gateway_env(log: Path) -> dict[str, str]:
    return {
        "GATEWAY_SAMPLE_DIR": str(log),
        "GATEWAY_SAMPLE_FRACTION": "1",
        # What else the machine does takes no version away.
        "GATEWAY_PROBE_SECONDS": "10",
        "GATEWAY_STALENESS_SECONDS": "20",
    }


@dataclass(slots=True)
class Flood:
    """The clients, and those that flood; `is_on` says whether the latter do at present."""

    url: str
    is_on: bool = False
    quiet: list[float] = field(default_factory=list)
    flooded: list[float] = field(default_factory=list)
    """Seconds of predictions, without and with a flood."""
    failed: list[Any] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    """Predictions whose outcome was acknowledged."""
    accepted: int = 0
    refused: dict[int, int] = field(default_factory=dict)
    body: bytes = b""
    """What floods."""
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Alternate between quiet and flooded times."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_CLIENTS):
                tasks.create_task(self._predict())
            for _ in range(_FLOODS):
                tasks.create_task(self._flood())
            for _ in range(_ROUNDS):
                self.is_on = False
                await asyncio.sleep(_ROUND_SECONDS)
                self.body, self.is_on = self._body(), True
                await asyncio.sleep(_ROUND_SECONDS)
            self.is_on = False
            self.over.set()

    async def _predict(self) -> None:
        async with Connection(self.url) as connection:
            while not self.over.is_set():
                ids: list[str] = []
                for _ in range(10):
                    was_on, sent = self.is_on, time.monotonic()
                    status, answer = await connection.ask("POST", "/predict", body={"data": [ROW]})
                    (self.flooded if was_on else self.quiet).append(time.monotonic() - sent)
                    if status == 200:
                        ids.append(answer["prediction_id"])
                    else:
                        self.failed.append(answer)
                    await asyncio.sleep(_PAUSE_SECONDS)
                await self._report(connection, ids)

    async def _report(self, connection: Connection, ids: Sequence[str]) -> None:
        """Report the truth, again while that is refused."""
        body = {"outcomes": [{"prediction_id": one, "outcome": _TRUTH} for one in ids]}
        status = 503
        while status == 503:
            status, _ = await connection.ask("POST", "/outcomes", body=body)
            await asyncio.sleep(_PAUSE_SECONDS)
        assert status == 200
        self.reported += ids

    async def _flood(self) -> None:
        async with Connection(self.url) as connection:
            while not self.over.is_set():
                if not self.is_on:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                status, _ = await connection.send("POST", "/outcomes", self.body)
                if status == 200:
                    self.accepted += MAX_OUTCOMES
                else:
                    self.refused[status] = self.refused.get(status, 0) + 1
                    await asyncio.sleep(_PAUSE_SECONDS)

    def _body(self) -> bytes:
        """As many outcomes as a call may have: of strangers, and of what was reported already."""
        strange = f"{random.getrandbits(256):064x}"
        known = self.reported[-1_000:]
        few = [
            {"prediction_id": one, "outcome": outcome, "observed_at": "2020-01-01T00:00:00Z"}
            for one in known
            for outcome in (_TRUTH, _LIE)
        ]
        some = [{"prediction_id": f"{strange}-{n}", "outcome": _LIE} for n in range(500)]
        text = json.dumps(few + some)[1:-1].encode()
        rest = MAX_OUTCOMES - len(few) - len(some)
        filler = b',{"prediction_id":"%b","outcome":2}' % strange.encode()
        return b'{"outcomes":[%b%b]}' % (text, filler * rest)


def begun(gateway: RunningGateway) -> None:
    """Begin a release of version 2 that copies every request."""
    answer = gateway.reload(version=1, run_id="run-1", mode="ssot", unpin=True)
    assert answer.status_code == 200, answer.text
    plan = {
        "steps": [{"strategy": "mirror", "percent": 100}],
        "guardrails": {"outcome": 0.05},
        "approval": "before_switch",
    }
    body = {"version": 2, "run_id": "run-2", "plan": plan}
    answer = gateway.client.post("/release", json=body)
    assert answer.status_code == 200, answer.text


def release_of(gateway: RunningGateway) -> tuple[Release, ReleaseEvidence]:
    """The release, once its counts are complete."""

    def found() -> ReleaseReport:
        answer = gateway.client.get("/models/best_model/release")
        return msgspec.json.decode(answer.content, type=ReleaseReport)

    wait_until(lambda: found().evidence is not None, 10, "evidence")
    seen = found()
    assert seen.release is not None
    assert seen.evidence is not None
    return seen.release, seen.evidence


def test_flood_of_outcomes_harms_no_client_no_memory_and_no_verdict(
    fresh_gateway: RunningGateway, log: Path
) -> None:
    gateway, flood = fresh_gateway, Flood(fresh_gateway.url)
    begun(gateway)
    for _ in range(50):  # memory of the first requests does not count
        gateway.predict()
    process = gateway.process.server
    before, memory = process.memory_info().rss, Memory(process)
    with memory.watched():
        asyncio.run(flood.run())
    grown = (memory.highest - before) / MIB
    release, evidence = release_of(gateway)
    gateway.process.stop()  # what waits of the log is written
    losses = candidate_losses(log, _SPEC, release, datetime.now(UTC))
    guards = judge_guards(release.plan, release, evidence, losses)
    verdict, why = decide(release, guards, evidence, datetime.now(UTC))
    slowest = [sorted(one)[-1 - len(one) // 100] for one in (flood.quiet, flood.flooded)]
    report(
        "outcomes",
        requests=len(flood.quiet) + len(flood.flooded),
        failed=len(flood.failed),
        longest_answer_ms=round(max(flood.flooded) * 1e3, 1),
        p99_quiet_ms=round(slowest[0] * 1e3, 1),
        p99_flooded_ms=round(slowest[1] * 1e3, 1),
        outcomes_accepted=flood.accepted,
        calls_refused=sum(flood.refused.values()),
        grown_mib=round(grown, 1),
    )
    assert flood.failed == []
    assert flood.refused.keys() <= {503}
    assert flood.accepted > 0
    assert grown < _MOST_MIB
    assert max(flood.flooded) < _LONGEST_SECONDS
    # Each row by the first outcome that was received: the truth, by which the candidate is wrong.
    assert isinstance(losses, PairedOutcomes)
    assert (losses.only_a, losses.alike) == (0, 0)
    assert 0.8 * len(flood.reported) <= losses.only_b <= len(flood.reported)
    assert (verdict, [one.guard for one in guards]) == (Verdict.STOP, [Guard.OUTCOME]), why
