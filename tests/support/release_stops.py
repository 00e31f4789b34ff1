"""How soon a stop of a release puts all clients on A, as the clients of two replicas see it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx

from tests.support.gateway_harness import ROW, RunningGateway
from tests.support.servers import NO_ROOTS, wait_until

SPLIT: Final = {"strategy": "split", "percent": 100}


def begin(replica: RunningGateway, *steps: dict[str, Any], version: int = 2, **plan: Any) -> Any:
    """Begin a release in these steps; the release."""
    body = {"version": version, "run_id": f"run-{version}", "plan": {"steps": steps, **plan}}
    answer = replica.client.post("/release", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["release"]


def act(replica: RunningGateway, path: str, **body: Any) -> Any:
    """Advance, approve or stop a release; the release."""
    answer = replica.client.post(f"/release/{path}", json={"reason": "because", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["release"]


class Caller(threading.Thread):
    """Asks one replica as one client, and notes when it last sent a request that B answered."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.last_b = 0.0
        self.variant = ""
        self.statuses: set[int] = set()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, verify=NO_ROOTS) as client:
            while not self._ended.is_set():
                sent = time.monotonic()
                answer = client.post("/predict", json={"data": [ROW], "client_id": "c"})
                self.statuses.add(answer.status_code)
                self.variant = answer.json().get("variant", "")
                if self.variant == "B":
                    self.last_b = sent

    def __enter__(self) -> Caller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(10)


def measure_stops(replicas: Sequence[RunningGateway], times: int, version: int = 2) -> list[float]:
    """Seconds from a stop, asked of the first replica, to the last request that B answered."""
    found: list[float] = []
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(Caller(replica.url)) for replica in replicas]
        for _ in range(times):
            begin(replicas[0], SPLIT, version=version)
            wait_until(lambda: all(one.variant == "B" for one in callers), 5, "B answers all")
            stopped = time.monotonic()
            act(replicas[0], "stop")
            wait_until(lambda: all(one.variant == "A" for one in callers), 5, "A answers all")
            found.append(max(one.last_b for one in callers) - stopped)
        assert {status for one in callers for status in one.statuses} == {200}
    return found
