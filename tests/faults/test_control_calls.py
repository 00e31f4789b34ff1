"""Control calls from many threads to two replicas follow each other, and none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.faults.scale import report, scale
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.servers import RunningRedis, RunningTriton, wait_until

_THREADS: Final = 32


@dataclass(frozen=True, slots=True)
class Call:
    """A control call, and what it got; `asked` is the version, or the percentage."""

    asked: float
    is_reload: bool
    expected: int | None
    """Generation that it had to be applied to, where it named one."""
    status: int
    answer: dict[str, Any]
    seconds: float

    @property
    def has_changed(self) -> bool:
        """Whether it made a generation."""
        return self.status == 200 and bool(self.answer["changed"])

    @property
    def generation(self) -> int:
        """That was in effect with its answer."""
        return int(self.answer["generation"])


@pytest.fixture
def replicas(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> Iterator[Sequence[RunningGateway]]:
    """Two replicas on one store, with A on version 1 by generation 1."""
    env = {"GATEWAY_REDIS_URL": redis.url}
    with (
        run_gateway(tmp_path, shared_triton.http_url, env=env, name="one") as one,
        run_gateway(tmp_path, shared_triton.http_url, env=env, name="two") as two,
    ):
        one.routed(1)
        wait_until(lambda: _generation(two) == 1, 5, "the other replica follows")
        yield one, two


def test_control_calls_of_32_threads_lose_no_change(
    replicas: Sequence[RunningGateway],
) -> None:
    each = scale(5, 200)
    began = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda number: [*_calls(replicas, number, each)], range(_THREADS))
        calls = [call for part in parts for call in part]
    seconds = time.monotonic() - began
    assert {call.status for call in calls} <= {200, 409}, [call.answer for call in calls][:5]
    refused = [call for call in calls if call.status == 409]
    assert {call.answer["code"] for call in refused} <= {"generation_conflict"}
    changed = sorted((call for call in calls if call.has_changed), key=lambda one: one.generation)
    newest = len(changed) + 1
    assert [call.generation for call in changed] == list(range(2, newest + 1))
    conditional = [call for call in changed if call.expected is not None]
    # Of few such calls all may come too late.
    assert len(conditional) >= scale(0, 1)
    assert all(call.generation == (call.expected or 0) + 1 for call in conditional)
    for replica in replicas:
        wait_until(partial(_is_at, replica, newest), 5, "all replicas follow")
        _check_content(replica, changed)
    report(
        "control",
        requests=len(calls),
        seconds=round(seconds, 1),
        changes=len(changed),
        refused_for_their_generation=sum(call.expected is not None for call in refused),
        refused_after_20_attempts=sum(call.expected is None for call in refused),
        longest_answer_ms=round(max(call.seconds for call in calls) * 1e3, 1),
    )


def _calls(replicas: Sequence[RunningGateway], thread: int, count: int) -> Iterator[Call]:
    """The calls of one thread: to each replica in turn, every third for what it saw last."""
    seen, step = 1, 10_000 // (_THREADS * count)  # each percentage once, in steps of 0.01
    for number in range(count):
        client, is_reload = replicas[(thread + number) % 2].client, number % 3 == 0
        percent = (thread * count + number) * step / 100
        version = 1 + (thread + number // 3) % 2
        expected = seen if number % 3 == 2 else None
        began = time.monotonic()
        if is_reload:
            body: dict[str, Any] = {"version": version, "run_id": f"run-{version}"}
            response = client.post("/variant/A/reload", json=body)
        else:
            body = {"strategy": "off", "percent": percent}
            body |= {} if expected is None else {"expected_generation": expected}
            response = client.put("/traffic", json=body)
        yield (call := _call(response, version if is_reload else percent, expected, began))
        seen = call.generation if call.status == 200 else _generation(replicas[0])


def _call(response: httpx.Response, asked: float, expected: int | None, began: float) -> Call:
    is_reload = response.request.url.path.endswith("/reload")
    seconds = time.monotonic() - began
    return Call(asked, is_reload, expected, response.status_code, response.json(), seconds)


def _check_content(replica: RunningGateway, changed: Sequence[Call]) -> None:
    """What is in effect is the last change of each kind: none undid one of the other kind."""
    found = replica.models()
    versions = [call.asked for call in changed if call.is_reload]
    percents = [call.asked for call in changed if not call.is_reload]
    assert found["effective"]["A"]["version"] == versions[-1]
    assert found["routing"]["traffic"]["percent"] == percents[-1]


def _is_at(replica: RunningGateway, generation: int) -> bool:
    return _generation(replica) == generation


def _generation(replica: RunningGateway) -> int:
    return int(replica.client.get("/health").json()["generation"])
