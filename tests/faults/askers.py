"""Clients that ask one replica all the time, and what is wrong with its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import httpx

from serving_gateway.inference.traffic import bucket, threshold
from tests.support.gateway_harness import ROW
from tests.support.servers import NO_ROOTS, wait_until

_PAUSE_SECONDS: Final = 0.04
_CLIENTS: Final = 7


@dataclass(frozen=True, slots=True)
class Content:
    """What a routing record says of the requests of clients."""

    variants: dict[str, int]
    strategy: str = "off"
    percent: float = 0.0

    @classmethod
    def of(cls, models: Any) -> Self:
        """By what `GET /models` says."""
        variants = {alias: one["version"] for alias, one in models["effective"].items()}
        traffic = models["routing"]["traffic"]
        return cls(variants, traffic["strategy"], traffic["percent"])

    def answer(self, client: str | None) -> tuple[str, int]:
        """Variant and version for a client."""
        is_split = self.strategy == "split" and client is not None
        alias = "B" if is_split and bucket(client or "") < threshold(self.percent) else "A"
        return alias, self.variants[alias]


class Asker(threading.Thread):
    """Asks as several clients, one request after the other.

    Attributes:
        floor: the oldest generation that the replica may still answer by.
        excused: statuses that it may answer at present.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.floor = 0
        self.excused: frozenset[int] = frozenset()
        self.count = 0
        self.longest = 0.0
        self._url = url
        self._failures: list[str] = []
        self._answers: list[tuple[int, dict[str, Any]]] = []
        self._over = threading.Event()
        self._running = threading.Event()
        self._idle = threading.Event()
        self._running.set()

    def run(self) -> None:
        with httpx.Client(
            base_url=self._url, timeout=20, trust_env=False, verify=NO_ROOTS
        ) as client:
            while not self._over.is_set():
                if not self._running.is_set():
                    self._idle.set()
                    self._running.wait(0.1)
                    continue
                self._idle.clear()
                self._ask(client)
                self._over.wait(_PAUSE_SECONDS)

    def _ask(self, client: httpx.Client) -> None:
        floor, excused, sent = self.floor, self.excused, time.monotonic()
        name = f"client-{self.count % _CLIENTS}"
        try:
            answer = client.post("/predict", json={"data": [ROW], "client_id": name})
        except httpx.HTTPError as error:
            self._failures.append(repr(error))
            return
        self.count += 1
        self.longest = max(self.longest, time.monotonic() - sent)
        if answer.status_code == 200:
            self._answers.append((floor, answer.json()))
        elif answer.status_code not in excused | self.excused:
            self._failures.append(answer.text)

    def pause(self) -> None:
        """Ask nothing more until `resume`; returns when the last answer is there."""
        self._running.clear()
        self._idle.clear()
        assert self._idle.wait(60)

    def resume(self) -> None:
        """Ask again."""
        self._running.set()

    def forget(self) -> None:
        """Judge no answer that is there by what is known later."""
        self.floor = 0
        self._answers = []

    def settle(self) -> None:
        """Wait until a request was sent and answered from now on."""
        count = self.count + 2
        wait_until(lambda: self.count >= count or not self._running.is_set(), 60, "an answer")

    def problems(self, accepted: Mapping[int, Content]) -> list[str]:
        """What was wrong since the last look."""
        failures, self._failures = self._failures, []
        answers, self._answers = self._answers, []
        return failures + [
            f"{answer} after generation {floor}"
            for floor, answer in answers
            if not _is_right(answer, floor, accepted)
        ]

    def __enter__(self) -> Asker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(30)


def _is_right(answer: Mapping[str, Any], floor: int, accepted: Mapping[int, Content]) -> bool:
    content = accepted.get(answer["generation"])
    return (
        content is not None
        and answer["generation"] >= floor
        and content.variants.get(answer["variant"]) == answer["version"]
        and answer["predictions"] == [answer["version"]]
    )
