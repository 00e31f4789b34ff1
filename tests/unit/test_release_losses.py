"""No request of a candidate's share gets lost: each is answered by it, or is one of its failures.

So the share of the traffic needs no test of its own (sample-ratio mismatch). Such a test assumes
that what it counts is assigned independently, which requests of one client are not.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving_gateway.contract import Strategy, Traffic
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    Overloaded,
    TooLarge,
    TritonUnavailable,
    VariantUnavailable,
)
from serving_gateway.inference.prediction import Prediction
from serving_gateway.inference.traffic import B, TrafficPolicy
from serving_gateway.triton.version_state import VersionState
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.waiting import eventually
from tests.unit.test_release_counts import BODY, IN_SPLIT, MIRROR, RELEASE, SPLIT, counted

HALF = Traffic(Strategy.SPLIT, 50.0)
SEEN_FROM_TRITON = (
    BadUpstreamAnswer,
    DeadlineExceeded,
    InferenceRefused,
    InvalidInput,
    Overloaded,
    TooLarge,
    TritonUnavailable,
    VariantUnavailable,
)


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path) as one:
        yield one


@pytest.mark.parametrize("kind", SEEN_FROM_TRITON, ids=lambda kind: kind.__name__)
async def test_however_a_candidate_fails_production_answers_and_it_is_counted(
    plane: FakeTritonPlane, kind: type[GatewayError]
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    plane.triton.errors[2] = kind("as a candidate may")
    assert json.loads(await plane.predict(BODY))["variant"] == "A"
    assert counted(plane, "1")["candidate"] == (1, 1, 0)


class Share:
    """Requests of many clients, half of whom are the candidate's, while everything fails."""

    def __init__(self, plane: FakeTritonPlane, seed: int) -> None:
        self.plane = plane
        self.chance = random.Random(seed)
        self.policy = TrafficPolicy(HALF)
        self.sent: list[tuple[bool, Prediction, Outcome]] = []
        """Whether it is of the candidate's share."""

    def send(self) -> None:
        client = f"client {self.chance.randrange(40)}"
        row = [1.5] if self.chance.random() < 0.1 else [1.5, 2.5]
        body = json.dumps({"data": [row], "client_id": client}).encode()
        outcome = Outcome()
        request = self.plane.predictor.submit(body, outcome)
        self.sent.append((self.policy.choose_variant(client) == B, request, outcome))

    def leave(self) -> None:
        """A client leaves whose request is under way."""
        waiting = [one for one in self.sent if not one[1].is_finished]
        if waiting:
            self.chance.choice(waiting)[1].abandon()

    def fail(self) -> None:
        """From now on a version fails, in one way or another, or does not any more."""
        version = self.chance.choice((1, 2, 2))
        self.plane.triton.errors.pop(version, None)
        if self.chance.random() < 0.6:
            self.plane.triton.errors[version] = self.chance.choice(SEEN_FROM_TRITON)("so it is")

    def hold(self) -> None:
        """Inferences take long, or those that did are answered."""
        self.plane.triton.holds ^= {self.chance.choice((1, 2))}
        self.release()

    def release(self) -> None:
        for call in self.plane.triton.calls:
            if self.chance.random() < 0.5 or not self.plane.triton.holds:
                call.answer()
        self.plane.triton.calls = [one for one in self.plane.triton.calls if not one.abandoned]

    def unready(self) -> None:
        """Triton does not have the candidate READY, or has it again."""
        state = self.plane.triton.version("m", 2)
        state.ready = not state.ready

    def reroute(self) -> None:
        """A next generation, in the same step."""
        self.plane.route(HALF, release=IN_SPLIT, A=1, B=2)


@pytest.mark.parametrize("seed", range(12))
async def test_requests_of_the_candidate_s_share_are_answered_by_it_or_count_as_failed(
    plane: FakeTritonPlane, seed: int
) -> None:
    share = Share(plane, seed)
    share.reroute()
    steps = (share.leave, share.fail, share.hold, share.unready, share.reroute)
    for _ in range(300):
        share.chance.choice((share.send, share.send, share.send, *steps))()
        for _ in range(share.chance.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)  # a turn of the loop
    plane.triton.holds = set()

    def ended() -> bool:
        share.release()
        return all(one.is_finished for _, one, _ in share.sent)

    await eventually(ended)
    own = answered = 0
    for is_own, _, outcome in share.sent:
        if not is_own:
            continue
        error = outcome.ended.exception() if outcome.ended.done() else None
        if isinstance(error, GatewayError) and error.status < 500:
            continue  # production refused it as well: the client's mistake
        own += 1
        if outcome.ended.done() and error is None:
            answered += json.loads(outcome.ended.result())["variant"] == "B"
    requests, failed, _ = counted(plane, "1")["candidate"]
    assert (requests, requests - failed) == (own, answered)
    assert own > 20


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_copies_that_a_candidate_could_not_take_because_it_was_not_ready_are_failures(
    plane: FakeTritonPlane, is_restarted: bool
) -> None:
    """As are requests of a split. One that was there half the time passed every mirror step.

    Not those of the time in which a Triton that starts again has production READY already.
    """
    plane.route(MIRROR, release=RELEASE, A=1, B=2)
    production, candidate = (plane.triton.version("m", version) for version in (1, 2))
    for ready in (True, False) * 5:
        candidate.ready = ready
        if ready:
            candidate.confirmed_at = time.monotonic()
        elif is_restarted:
            production.ready_since = time.monotonic()
        await plane.predict(BODY)
    expected = (5, 0, 5) if is_restarted else (10, 5, 5)
    await eventually(lambda: counted(plane, "0")["candidate"] == expected)
    assert counted(plane, "0")["reference"] == (10, 0, 10)


def test_a_version_is_ready_since_it_last_became_so() -> None:
    server: Any = SimpleNamespace(
        is_ready=True, is_hung=False, confirmed_at=1.0, reason=None, server=SimpleNamespace()
    )
    server.server.problem = None
    state, other = VersionState("m", 1, []), VersionState("m", 2, [])
    state.on_servers, other.confirmed_at = [server], time.monotonic()
    state.refresh()
    first = state.ready_since
    state.refresh()
    assert state.ready_since == first >= other.confirmed_at
    assert not other.was_ready_since(state)
    other.confirmed_at = time.monotonic()
    assert other.was_ready_since(state)
    server.is_ready = False
    state.refresh()
    server.is_ready = True
    state.refresh()
    assert state.ready_since > first
    assert not other.was_ready_since(state), "it may not have been READY since then"
