"""The protocol of the routing record as a state machine; and that it notices each lost guard."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from platform_assets.serving import policy
from serving_gateway.contract import Mode, ReleaseState, RoutingRecord, Strategy, Traffic, Verdict
from serving_gateway.control import release_transitions, transitions
from serving_gateway.inference.router import Router
from serving_gateway.replication.records import Merge, merge
from tests.faults import protocol as played
from tests.faults.protocol import (
    REPLICAS,
    VERSIONS,
    Protocol,
    Violation,
    random_step,
)
from tests.faults.release_rules import PLANS
from tests.faults.scale import report, scale

replicas = st.integers(0, REPLICAS - 1)
versions = st.integers(1, VERSIONS)
aliases = st.sampled_from(["A", "A", "B"])
named = st.none() | versions
STEPS_OF_A_WALK: Final = 200


class ProtocolMachine(RuleBasedStateMachine):
    """Hypothesis chooses the steps, and shortens what leads to a violation."""

    protocol: Protocol

    @initialize(is_begun=st.booleans())
    def begin(self, is_begun: bool) -> None:
        self.protocol = Protocol.in_production() if is_begun else Protocol()

    @rule(version=versions, dies=st.booleans())
    def load(self, version: int, dies: bool) -> None:
        self.protocol.load(version, dies=dies)

    @rule(version=versions, mend=st.booleans())
    def damage(self, version: int, mend: bool) -> None:
        (self.protocol.mend_files if mend else self.protocol.break_files)(version)

    @rule()
    def retire(self) -> None:
        self.protocol.retire()

    @rule()
    def restart_triton(self) -> None:
        self.protocol.restart_triton()

    @rule(commits=st.integers(1, 4))
    def lose(self, commits: int) -> None:
        self.protocol.lose(commits)

    @precondition(lambda self: self.protocol.is_store_up)
    @rule()
    def stop_store(self) -> None:
        self.protocol.stop_store()

    @precondition(lambda self: not self.protocol.is_store_up)
    @rule()
    def start_store(self) -> None:
        self.protocol.start_store()

    @rule(number=replicas)
    def crash(self, number: int) -> None:
        self.protocol.crash(number)

    @rule(number=replicas)
    def start(self, number: int) -> None:
        self.protocol.start(number)

    @rule(number=replicas)
    def look(self, number: int) -> None:
        self.protocol.look(number)

    @rule(
        number=replicas,
        alias=aliases,
        version=named,
        mode=st.sampled_from([None, *Mode]),
        unpin=st.booleans(),
    )
    def reload(
        self, number: int, alias: str, version: int | None, mode: Mode | None, unpin: bool
    ) -> None:
        self.protocol.begin_reload(number, alias, version, mode, unpin=unpin)

    @rule(number=replicas, alias=aliases, version=named)
    def roll_back(self, number: int, alias: str, version: int | None) -> None:
        self.protocol.begin_rollback(number, alias, version)

    @precondition(lambda self: self.protocol.pending)
    @rule(which=st.integers(0, 3))
    def finish(self, which: int) -> None:
        self.protocol.finish(which)

    @precondition(lambda self: self.protocol.under_way)
    @rule(which=st.integers(0, 7))
    def arrive(self, which: int) -> None:
        self.protocol.arrive(which)

    @rule(number=replicas, strategy=st.sampled_from(Strategy), percent=st.sampled_from([0, 1, 50]))
    def set_traffic(self, number: int, strategy: Strategy, percent: float) -> None:
        self.protocol.set_traffic(number, strategy, percent)

    @rule(number=replicas, version=versions, plan=st.integers(0, len(PLANS) - 1))
    def begin_release(self, number: int, version: int, plan: int) -> None:
        self.protocol.begin_release(number, version, plan)

    @rule(number=replicas, verdict=st.sampled_from([*Verdict, Verdict.GO]))
    def advance(self, number: int, verdict: Verdict) -> None:
        self.protocol.advance(number, verdict)

    @rule(number=replicas)
    def approve(self, number: int) -> None:
        self.protocol.approve(number)

    @rule(number=replicas)
    def switch(self, number: int) -> None:
        self.protocol.switch(number)

    @rule(number=replicas)
    def stop(self, number: int) -> None:
        self.protocol.stop(number)

    @rule(number=replicas)
    def clear(self, number: int) -> None:
        self.protocol.clear(number)

    @rule(number=replicas)
    def remove(self, number: int) -> None:
        self.protocol.remove(number)

    @invariant()
    def holds(self) -> None:
        self.protocol.check()

    def teardown(self) -> None:
        self.protocol.settle()


TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(
    max_examples=scale(20, 2_000),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def walk(steps: int, seed: int) -> int:
    """Random walks, every second a calm one, of so many steps; how many changes were accepted."""
    chance, accepted = random.Random(seed), 0
    for number in range(steps // STEPS_OF_A_WALK):
        is_calm = number % 2 == 1
        protocol = Protocol.in_production() if is_calm else Protocol()
        for _ in range(STEPS_OF_A_WALK):
            random_step(protocol, chance, is_calm=is_calm)
            protocol.check()
        protocol.settle()
        accepted += len(protocol.accepted)
    return accepted


def test_random_walks_break_no_invariant() -> None:
    steps = scale(30_000, 2_000_000)
    accepted = walk(steps, seed=20_260_101)
    assert accepted > steps / 40
    report("protocol", steps=steps, accepted_changes=accepted)


@pytest.mark.parametrize("place", ["a step", "the watch"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_stop_without_the_store_outlives_the_process_where_it_is_kept(
    place: str, is_kept: bool
) -> None:
    """In a directed walk: random ones seldom kill a process between a stop and its writing."""
    protocol = Protocol.in_production()
    protocol.begin_release(0, 2, plan=len(PLANS) - 1)
    protocol.finish(0)
    protocol.settle()
    if place == "the watch":
        for _ in PLANS[-1].steps:
            protocol.advance(0, Verdict.GO)
            protocol.settle()
        protocol.switch(0)
        protocol.finish(0)
        protocol.settle()
        release = protocol.stored.release
        assert release is not None
        assert release.state is ReleaseState.WATCHING
    protocol.stop_store()
    protocol.stop(0)
    protocol.check()
    if not is_kept:
        protocol.replicas[0].kept_stop = None
    protocol.crash(0)
    protocol.start(0)
    protocol.check()
    if is_kept:
        protocol.settle()
    else:
        with pytest.raises(Violation, match="a stop was lost"):
            protocol.settle()


@dataclass(frozen=True)
class Loss:
    """A guard of the product, and what it does once it is lost."""

    owner: Any
    name: str
    instead: Callable[..., Any]


def last_writer_wins(stored: RoutingRecord, known: RoutingRecord) -> Merge:
    return Merge(stored, write=False)


def own_record_wins(stored: RoutingRecord, known: RoutingRecord) -> Merge:
    same = merge(stored, known)
    return same if known.generation == 0 else Merge(known, write=stored != known)


def keeps_generation(stored: RoutingRecord, known: RoutingRecord) -> Merge:
    found = merge(stored, known)
    if found.write and found.dropped is known:
        return msgspec.structs.replace(found, record=stored)
    return found


def stays_removed(record: RoutingRecord, alias: str, target: Any) -> RoutingRecord:
    after = transitions.roll_back(record, alias, target)
    return msgspec.structs.replace(after, removed=record.removed)


def keeps_traffic(record: RoutingRecord, alias: str) -> RoutingRecord:
    after = transitions.without_variant(record, alias)
    return msgspec.structs.replace(after, traffic=record.traffic)


def ignores_pins(record: RoutingRecord, alias: str, request: Any, ready: Any) -> Any:
    return transitions.choose(record, alias, msgspec.structs.replace(request, unpin=True), ready)


class _Without:
    """A module, with one of its functions lost."""

    def __init__(self, module: ModuleType, loss: Loss) -> None:
        self._module = module
        setattr(self, loss.name, loss.instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


LOSSES: Final = {
    "a store that lost commits is always right": Loss(played, "merge", last_writer_wins),
    "a replica is always right": Loss(played, "merge", own_record_wins),
    "a change after a loss keeps its number": Loss(played, "merge", keeps_generation),
    "a table follows any record": Loss(Router, "_supersedes", lambda *_: True),
    "a removed model is rolled back": Loss(transitions, "roll_back", stays_removed),
    "B leaves and its share stays": Loss(transitions, "without_variant", keeps_traffic),
    "a share without a B": Loss(
        transitions,
        "with_traffic",
        lambda record, request: msgspec.structs.replace(
            record, traffic=Traffic(request.strategy, request.percent)
        ),
    ),
    "automation moves what is pinned": Loss(transitions, "choose", ignores_pins),
    "a load drops what serves": Loss(
        policy, "versions_to_load", lambda candidate, **_: (candidate,)
    ),
    "what is routed is retired": Loss(
        policy,
        "versions_to_keep",
        lambda *, production, **_: (production,),
    ),
    "a release goes on after other changes": Loss(
        release_transitions, "settle", lambda _base, changed, *_: changed
    ),
    "automation does not wait for a release": Loss(
        release_transitions, "check_reload", lambda *_: None
    ),
    "a stop waits for the store": Loss(Router, "withdraw", lambda *_: None),
    "a stop is forgotten": Loss(Protocol, "_write_pending_stop", lambda *_: None),
}


@pytest.mark.parametrize("name", LOSSES)
def test_model_notices_loss_of_guard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = LOSSES[name]
    if isinstance(loss.owner, ModuleType) and hasattr(played, loss.owner.__name__.split(".")[-1]):
        alias = loss.owner.__name__.split(".")[-1]
        monkeypatch.setattr(played, alias, _Without(loss.owner, loss))
    else:
        owner = played if loss.owner is policy else loss.owner
        monkeypatch.setattr(owner, loss.name, loss.instead)
    with pytest.raises(Violation):
        walk(60_000, seed=1)
