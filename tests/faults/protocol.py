"""The protocol of the routing record, played in one process: replicas, a store, a Triton.

All decisions are the product's own: the transitions, the merge of records, the routing table and
the pipeline's policy of versions. Only the servers are played. Each method is one step that may
happen at any moment; what must hold after each step is checked by `check`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

from platform_assets.serving.policy import versions_to_keep, versions_to_load
from serving_gateway.batching import ByteBudget
from serving_gateway.contract import (
    Mode,
    ReleaseAdvance,
    ReleaseDecision,
    ReleaseRequest,
    ReloadRequest,
    RoutingRecord,
    Slot,
    Strategy,
    TrafficRequest,
    Verdict,
)
from serving_gateway.control import release_transitions, transitions
from serving_gateway.errors import GatewayError
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.traffic import A, B
from serving_gateway.replication.records import merge, next_change_time
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.triton.cluster import TritonClusters
from tests.faults.release_rules import PLANS, broken_step, contradiction, is_active
from tests.support.fake_triton import FakeTriton

REPLICAS: Final = 3
VERSIONS: Final = 5
RETENTION: Final = 2
CLIENTS: Final = tuple(f"client-{number}" for number in range(8))
_NAME: Final = "m"
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_NOTHING: Final = RoutingRecord(_NAME)
_SETTINGS: Final = Settings(state_dir=Path("nowhere"), model_name=_NAME)
Change = Callable[[RoutingRecord], RoutingRecord]


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Replica:
    """A gateway process; `router` is None while it is down, `copy` outlives it."""

    router: Router | None
    copy: RoutingRecord = _NOTHING
    seen: int = 0
    """The highest generation that this process routed by."""
    pending_stop: str | None = None
    """Id of the release that was stopped here last."""
    kept_stop: str | None = None
    """The same of a stop that could not be written, which outlives the process as `copy` does."""


@dataclass(slots=True)
class _Pending:
    """A change whose version was verified, and which is not written yet."""

    replica: int
    router: Router
    change: Change
    is_automatic: bool


@dataclass(slots=True)
class Protocol:
    """The state of all processes."""

    history: list[RoutingRecord] = field(default_factory=lambda: [_NOTHING])
    """What the store had, oldest first; it may lose its last entries."""
    is_store_up: bool = True
    ready: set[int] = field(default_factory=set)
    persisted: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    replicas: list[Replica] = field(
        default_factory=lambda: [Replica(_router()) for _ in range(REPLICAS)]
    )
    pending: list[_Pending] = field(default_factory=list)
    under_way: list[tuple[Replica, Router, RoutingRecord, RoutingRecord | None]] = field(
        default_factory=list
    )
    """Records that a replica asks Triton about before it routes by them (`Router.follow`)."""
    accepted: dict[tuple[str | None, str | None], dict[str, int]] = field(default_factory=dict)
    """Versions by variant of each accepted record, by when it was changed and why."""
    kept_stops: set[str | None] = field(default_factory=set)
    """Ids of releases of which a stop was answered before it could be written."""
    changes: int = 0
    seconds: int = 0

    @classmethod
    def in_production(cls) -> Protocol:
        """Versions 1 to 3 are READY, and all replicas route A to 1."""
        protocol = cls(ready={1, 2, 3}, persisted={1, 2, 3})
        protocol.begin_reload(0, A, 1, Mode.SSOT, unpin=False)
        protocol.finish(0)
        protocol.settle()
        return protocol

    @property
    def stored(self) -> RoutingRecord:
        """The store's record."""
        return self.history[-1]

    # Triton and the pipeline

    def load(self, version: int, *, dies: bool) -> None:
        """Load a candidate beside what serves; the publisher may die before it persists that."""
        names = versions_to_load(
            version, ready=self.ready, verified=self.persisted, broken=self.broken
        )
        before = set(self.ready)
        self.ready = set(names) - self.broken
        _require(before <= self.ready, "a load took a version away (I4)")
        if version in self.ready and not dies:
            self.persisted = set(self.ready)

    def break_files(self, version: int) -> None:
        """Damage a version that nothing serves."""
        if version not in self.ready | self.persisted:
            self.broken.add(version)

    def mend_files(self, version: int) -> None:
        """Publish it again."""
        self.broken.discard(version)

    def retire(self) -> None:
        """Retire what is beyond the retention, after a switch that all replicas follow."""
        live = [one.router.record for one in self.replicas if one.router is not None]
        if not self.is_store_up or self.pending or any(one != self.stored for one in live):
            return
        slot = self.stored.variants.get(A)
        if slot is None or slot.version not in self.ready:
            return
        routed = {one.version for one in self.stored.variants.values()}
        kept = versions_to_keep(
            production=slot.version,
            previous=[one.version for one in self.stored.previous.get(A, ())],
            routed=routed,
            ready=self.ready,
            retention=RETENTION,
        )
        _require(routed & self.ready <= set(kept), "a routed version was retired (I3)")
        self.ready = self.persisted = set(kept)

    def restart_triton(self) -> None:
        """Kill Triton; what it starts with is what was persisted."""
        verified = set(self.persisted)
        self.ready = self.persisted - self.broken
        _require(self.ready == verified, "other versions came back than were verified (I10)")

    # The store and the replicas

    def lose(self, commits: int) -> None:
        """The store fails over to one that lacks the last commits."""
        del self.history[max(1, len(self.history) - commits) :]

    def stop_store(self) -> None:
        """It does not answer any more."""
        self.is_store_up = False

    def start_store(self) -> None:
        """It answers again."""
        self.is_store_up = True

    def crash(self, number: int) -> None:
        """Kill a replica."""
        self.replicas[number].router = self.replicas[number].pending_stop = None
        self.pending = [one for one in self.pending if one.replica != number]

    def start(self, number: int) -> None:
        """Start one again, from the store or, without it, from its copy (as the watcher does)."""
        replica = self.replicas[number]
        if replica.router is not None:
            return
        replica.router, replica.seen = _router(), 0
        if replica.kept_stop is not None:
            replica.pending_stop = replica.kept_stop
            replica.router.withdraw(replica.kept_stop)
        is_lost = self.is_store_up and self.stored.generation == 0
        if replica.copy.generation and (is_lost or not self.is_store_up):
            self._adopt(replica, replica.copy)
        self.look(number)

    def look(self, number: int) -> None:
        """A replica compares its record with the store's."""
        replica = self.replicas[number]
        if replica.router is None or not self.is_store_up:
            return
        self._write_pending_stop(number)
        known = replica.router.record
        merged = merge(self.stored, known)
        if merged.write:
            self.history.append(merged.record)
        if merged.record is not known:
            self._follow(replica, merged.record, instead_of=known)

    def arrive(self, which: int) -> None:
        """Triton answered about a record that a replica wants to route by."""
        if self.under_way:
            replica, router, record, instead_of = self.under_way.pop(which % len(self.under_way))
            if replica.router is router:
                self._adopt(replica, record, instead_of=instead_of)

    # Releases

    def begin_release(self, number: int, version: int, plan: int) -> None:
        """Verify the candidate of a release."""
        request = ReleaseRequest(version, f"run-{version}", PLANS[plan % len(PLANS)])
        ready = tuple(sorted(self.ready))
        wish = ReloadRequest(version, mode=Mode.SSOT)

        def decide(record: RoutingRecord) -> tuple[int, Change]:
            held = release_transitions.check_begin(record, request)
            choice = transitions.choose(record, B, wish, ready)
            slot = Slot(choice[0], request.run_id, "caller", choice[1])

            def change(fresh: RoutingRecord) -> RoutingRecord:
                if fresh.variants.get(A) != held:
                    raise GatewayError("changed meanwhile")
                transitions.choose(fresh, B, wish, ready)
                name = f"release {self.changes}"
                return release_transitions.begin(fresh, request, slot, name, self._at(fresh), "t")

            return version, change

        self._begin(number, decide)

    def advance(self, number: int, verdict: Verdict) -> None:
        """The pilot's verdict on the phase that this replica knows, maybe an old one."""
        router = self.replicas[number].router
        release = None if router is None else router.record.release
        if release is not None:
            request = ReleaseAdvance(release.id, release.state, release.step, verdict, "seen")
            self._commit(
                number,
                lambda fresh: release_transitions.advance(fresh, request, self._at(fresh), "pilot"),
                is_automatic=True,
            )

    def approve(self, number: int) -> None:
        """A principal approves."""
        request = ReleaseDecision("seen")
        self._commit(
            number, lambda fresh: release_transitions.approve(fresh, request, self._at(fresh), "t")
        )

    def switch(self, number: int) -> None:
        """The pipeline switches to a version that is cleared."""
        router = self.replicas[number].router
        release = None if router is None else router.record.release
        if release is not None:
            self.begin_reload(number, A, release.version, Mode.SSOT, unpin=False)

    def stop(self, number: int) -> None:
        """Stop the release: in effect here at once, whether or not it can be written (I19)."""
        replica = self.replicas[number]
        release = None if replica.router is None else replica.router.record.release
        if replica.router is None or release is None or not is_active(replica.router.record):
            return
        replica.router.withdraw(release.id)
        replica.pending_stop = release.id
        for client in CLIENTS:
            _require(
                replica.router.table.policy.choose_variant(client) == A,
                "B answers after a stop (I19)",
            )
        self._write_pending_stop(number)
        if is_active(replica.router.record):
            self._keep_stop(replica)

    def _keep_stop(self, replica: Replica) -> None:
        replica.kept_stop = replica.pending_stop
        self.kept_stops.add(replica.pending_stop)

    def _write_pending_stop(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.router is None or replica.pending_stop is None or not self.is_store_up:
            return
        release = replica.router.record.release
        if release and release.id == replica.kept_stop and not is_active(replica.router.record):
            replica.kept_stop = None
        if is_active(replica.router.record) and release and release.id == replica.pending_stop:
            request = ReleaseDecision("bad", replica.pending_stop)
            self._commit(
                number, lambda fresh: release_transitions.stop(fresh, request, self._at(fresh), "t")
            )

    def _at(self, fresh: RoutingRecord) -> str:
        return next_change_time(fresh, _START + timedelta(seconds=self.seconds + 1))

    # Changes: begun at one moment, written at another one

    def begin_reload(
        self, number: int, alias: str, version: int | None, mode: Mode | None, *, unpin: bool
    ) -> None:
        """Verify the version of a reload, as the control plane does."""
        request = ReloadRequest(version=version, mode=mode, unpin=unpin)
        ready = tuple(sorted(self.ready))

        def choose(record: RoutingRecord) -> tuple[int, Mode]:
            choice = transitions.choose(record, alias, request, ready)
            release_transitions.check_reload(record, alias, *choice)
            return choice

        def decide(record: RoutingRecord) -> tuple[int, Change]:
            choice = choose(record)
            slot = Slot(choice[0], f"run-{choice[0]}", "caller", choice[1])

            def change(fresh: RoutingRecord) -> RoutingRecord:
                if choose(fresh) != choice:
                    raise GatewayError("changed meanwhile")
                after = transitions.with_slot(fresh, alias, slot)
                self._check_pin(
                    fresh, after, alias, is_automatic=mode is not Mode.PINNED, unpin=unpin
                )
                return after

            return choice[0], change

        self._begin(number, decide, is_automatic=mode is Mode.SSOT)

    def begin_rollback(self, number: int, alias: str, version: int | None) -> None:
        """Verify the version of a rollback."""

        def decide(record: RoutingRecord) -> tuple[int, Change]:
            held = record.variants.get(alias)
            slot = (
                transitions.previous_slot(record, alias)
                if version is None
                else Slot(version, f"run-{version}", "caller", Mode.PINNED)
            )

            def change(fresh: RoutingRecord) -> RoutingRecord:
                if fresh.variants.get(alias) != held:
                    raise GatewayError("changed meanwhile")
                if version is None and transitions.previous_slot(fresh, alias) != slot:
                    raise GatewayError("changed meanwhile")
                return transitions.roll_back(fresh, alias, slot)

            return slot.version, change

        self._begin(number, decide)

    def set_traffic(self, number: int, strategy: Strategy, percent: float) -> None:
        """Change B's share."""
        request = TrafficRequest(strategy, percent)
        self._commit(number, lambda fresh: transitions.with_traffic(fresh, request))

    def clear(self, number: int) -> None:
        """Take B away."""
        self._commit(number, lambda fresh: transitions.without_variant(fresh, B))

    def remove(self, number: int) -> None:
        """Remove the model."""
        self._commit(number, transitions.remove)

    def finish(self, which: int) -> None:
        """Write a change that was begun."""
        if self.pending:
            one = self.pending.pop(which % len(self.pending))
            self._commit(one.replica, one.change, is_automatic=one.is_automatic)

    def _begin(
        self,
        number: int,
        decide: Callable[[RoutingRecord], tuple[int, Change]],
        *,
        is_automatic: bool = False,
    ) -> None:
        router = self.replicas[number].router
        if router is None or not self.is_store_up or len(self.pending) > 3:
            return
        try:
            version, change = decide(merge(self.stored, router.record).record)
        except GatewayError:
            return
        if version in self.ready:  # as `require_ready` wants it (I1)
            self.pending.append(_Pending(number, router, change, is_automatic))

    def _commit(self, number: int, change: Change, *, is_automatic: bool = False) -> None:
        replica = self.replicas[number]
        if replica.router is None or not self.is_store_up:
            return
        merged = merge(self.stored, replica.router.record)
        try:
            changed = change(merged.record)
        except GatewayError:
            return
        if changed is merged.record and not merged.write:
            self._follow(replica, merged.record)
            return
        self.seconds += 1
        self.changes += 1
        now, reason = _START + timedelta(seconds=self.seconds), f"change {self.changes}"
        at = next_change_time(merged.record, now)
        settled = release_transitions.settle(merged.record, changed, at, "token:test", reason)
        written = transitions.next_generation(
            merged.record, settled, now=now, by="token:test", reason=reason
        )
        broken = broken_step(merged.record, written, is_automatic=is_automatic)
        _require(broken is None, str(broken))
        self.history.append(written)
        self.accepted[_identity(written)] = _versions(written)
        self._follow(replica, written)

    def _follow(
        self, replica: Replica, record: RoutingRecord, *, instead_of: RoutingRecord | None = None
    ) -> None:
        assert replica.router is not None
        self.under_way.append((replica, replica.router, record, instead_of))

    def _adopt(
        self, replica: Replica, record: RoutingRecord, *, instead_of: RoutingRecord | None = None
    ) -> None:
        router = replica.router
        assert router is not None
        before = router.record
        router.adopt(record, instead_of=instead_of)
        if router.record is not before:
            replica.copy = _NOTHING if router.record.removed else router.record
        _require(router.record.generation >= replica.seen, "a replica went back (I7)")
        replica.seen = router.record.generation

    def _check_pin(
        self,
        before: RoutingRecord,
        after: RoutingRecord,
        alias: str,
        *,
        is_automatic: bool,
        unpin: bool,
    ) -> None:
        held, wanted = before.variants.get(alias), after.variants[alias]
        if held is None or held.mode is not Mode.PINNED or unpin or wanted.mode is Mode.PINNED:
            return
        _require(not (is_automatic and wanted.version != held.version), "a pin was overridden")

    # Invariants

    def check(self) -> None:
        """What must hold after each step."""
        for replica in self.replicas:
            if replica.router is not None:
                self._check_routing(replica.router)
        self._check_record(self.stored)

    def _check_routing(self, router: Router) -> None:
        """Each answer is by a version that an accepted record names for its variant (I3)."""
        table, record = router.table, router.record
        effective = self.accepted.get(_identity(record), {})
        _require(record.generation == 0 or _versions(record) == effective, "a record not accepted")
        for client in (None, *CLIENTS):
            alias = table.policy.choose_variant(client)
            target = table.targets.get(B) if alias == B else table.production
            answering = None if target is None else target.slot.version
            variant = A if target is None else target.variant
            _require(
                answering == effective.get(variant), "an answer of a version not effective (I3)"
            )
            if router.is_withdrawn and record.release is not None:
                _require(answering == record.release.previous_version, "a stop had no effect (I19)")
            if alias == B:
                is_split = transitions.is_split(record.traffic) and not router.is_withdrawn
                _require(is_split and client is not None, "B answered outside a split")

    def _check_record(self, record: RoutingRecord) -> None:
        _require(not (record.removed and record.variants), "a removed model is routed")
        unsound = contradiction(record)
        _require(unsound is None, str(unsound))
        if transitions.has_traffic(record.traffic):
            _require(B in record.variants, "traffic for a B without a version")
        for alias, older in record.previous.items():
            held = record.variants.get(alias)
            versions = [slot.version for slot in older]
            with contextlib.suppress(GatewayError):  # there may be no way back
                back = transitions.previous_slot(record, alias)
                _require(held is None or back.version != held.version, "no way back at all")
            _require(len(set(versions)) == len(versions), "twice in the way back")
            _require(len(older) <= transitions.KEPT_PREVIOUS, "the record grows")
        for switches in record.switches.values():
            _require(len(switches) <= transitions.KEPT_SWITCHES, "the record grows")

    def settle(self) -> None:
        """With all up, every replica and the store agree after a few looks (I7)."""
        self.start_store()
        for number in range(REPLICAS):
            self.start(number)
        for _ in range(3):
            for number in range(REPLICAS):
                self.look(number)
            while self.under_way:
                self.arrive(0)
        for replica in self.replicas:
            _require(replica.router is not None and replica.router.record == self.stored, "I7")
            _require(not (replica.router and replica.router.is_withdrawn), "a stop was lost (I19)")
        if (release := self.stored.release) is not None and is_active(self.stored):
            _require(release.id not in self.kept_stops, "a stop was lost (I19)")
        self.check()


def random_step(protocol: Protocol, chance: random.Random, *, is_calm: bool = False) -> None:
    """One step of a random walk, over the same steps as the state machine's.

    In a calm walk operators interfere seldom, so that releases get far.
    """
    number, version = chance.randrange(REPLICAS), chance.randint(1, VERSIONS)
    alias = chance.choice((A, A, B))
    named = chance.choice((None, version))
    mode = Mode.SSOT if is_calm else chance.choice((None, Mode.SSOT, Mode.PINNED))
    unpin = is_calm or chance.random() < 0.5
    strategy, percent = chance.choice(list(Strategy)), chance.choice((0.0, 1.0, 50.0, 100.0))
    verdict = Verdict.GO if is_calm else chance.choice((*Verdict, Verdict.GO, Verdict.GO))
    plan, often = chance.randrange(len(PLANS)), 0.1 if is_calm else 1.0
    steps: tuple[tuple[float, Callable[[], None]], ...] = (
        (6, lambda: protocol.load(version, dies=chance.random() < 0.3)),
        (1, lambda: protocol.break_files(version)),
        (1, lambda: protocol.mend_files(version)),
        (3 * often, protocol.retire),
        (2 * often, protocol.restart_triton),
        (2 * often, lambda: protocol.lose(chance.randint(1, 4))),
        (1 * often, protocol.stop_store),
        (3, protocol.start_store),
        (2 * often, lambda: protocol.crash(number)),
        (4, lambda: protocol.start(number)),
        (12, lambda: protocol.look(number)),
        (10 * often**2, lambda: protocol.begin_reload(number, alias, named, mode, unpin=unpin)),
        (4 * often, lambda: protocol.begin_rollback(number, alias, named)),
        (4 * often, lambda: protocol.set_traffic(number, strategy, percent)),
        (1 * often, lambda: protocol.clear(number)),
        (1 * often, lambda: protocol.remove(number)),
        (14, lambda: protocol.finish(version)),
        (10, lambda: protocol.begin_release(number, version, plan)),
        (16, lambda: protocol.advance(number, verdict)),
        (4, lambda: protocol.approve(number)),
        (8, lambda: protocol.switch(number)),
        (1, lambda: protocol.stop(number)),
        (30, lambda: protocol.arrive(chance.randrange(8))),
    )
    weights, actions = zip(*steps, strict=True)
    chance.choices(actions, weights)[0]()


def _router() -> Router:
    return Router(
        _NAME,
        _SETTINGS,
        cast(TritonClusters, FakeTriton()),
        Lifecycle(),
        Metrics().model(_NAME),
        ByteBudget(2**20),
    )


def _identity(record: RoutingRecord) -> tuple[str | None, str | None]:
    """What stays of an accepted record that a merge puts under another generation."""
    return record.changed_at, record.reason


def _versions(record: RoutingRecord) -> dict[str, int]:
    return {alias: slot.version for alias, slot in record.variants.items()}


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)
