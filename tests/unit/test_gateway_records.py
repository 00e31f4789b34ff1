"""Which of two routing records wins: every history of commits, losses and looks converges."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_gateway.contract import (
    DType,
    Feature,
    Mode,
    Release,
    ReleasePlan,
    ReleaseState,
    RoutingRecord,
    Signature,
    Slot,
    Strategy,
    Traffic,
)
from serving_gateway.errors import RecordRefused
from serving_gateway.replication.records import (
    Merge,
    decode_record,
    digest,
    merge,
    next_change_time,
    same_content,
    with_ancestor,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = RoutingRecord("m")


@dataclass
class World:
    """A store that may lose its newest commits, and replicas that look at it from time to time."""

    stored: RoutingRecord = NOTHING
    history: list[RoutingRecord] = field(default_factory=lambda: [NOTHING])
    known: list[RoutingRecord] = field(default_factory=lambda: [NOTHING] * 3)
    parents: dict[str, str | None] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)
    accepted: list[str] = field(default_factory=list)
    seconds: int = 0

    def commit(self, replica: int) -> None:
        self.seconds += 1
        base = merge(self.stored, self.known[replica]).record
        self._report(replica)
        name = f"change {len(self.accepted)}"
        self.parents[name] = base.reason
        self.accepted.append(name)
        record = msgspec.structs.replace(
            base,
            generation=base.generation + 1,
            changed_at=next_change_time(base, START + timedelta(seconds=self.seconds)),
            reason=name,
        )
        record = with_ancestor(record, base)
        self._write(record)
        self.known[replica] = record

    def look(self, replica: int) -> None:
        before = self.known[replica]
        merged = merge(self.stored, before)
        self._report(replica)
        if merged.write:
            self._write(merged.record)
        assert merged.record.generation >= before.generation, "no replica goes back"
        self.known[replica] = merged.record

    def lose(self, commits: int) -> None:
        del self.history[max(1, len(self.history) - commits) :]
        self.stored = self.history[-1]

    def _report(self, replica: int) -> None:
        merged = merge(self.stored, self.known[replica])
        if merged.dropped is not None and merged.dropped.reason is not None:
            self.reported.add(merged.dropped.reason)

    def _write(self, record: RoutingRecord) -> None:
        self.stored = record
        self.history.append(record)

    def ancestors(self) -> set[str]:
        return set() if self.stored.reason is None else self.ancestors_of(self.stored.reason)

    def reported_with_ancestors(self) -> set[str]:
        """What is known to be lost: with a record goes what led to it."""
        return {one for name in self.reported for one in self.ancestors_of(name)}

    def ancestors_of(self, name: str) -> set[str]:
        found: set[str] = set()
        parent: str | None = name
        while parent is not None:
            found.add(parent)
            parent = self.parents[parent]
        return found


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 2)),
        st.tuples(st.just("look"), st.integers(0, 2)),
        st.tuples(st.just("lose"), st.integers(1, 5)),
    ),
    max_size=30,
)


def play(steps: list[tuple[str, int]]) -> World:
    world = World()
    for action, number in steps:
        getattr(world, action)(number)
    for _ in range(2):
        for replica in range(3):
            world.look(replica)
    return world


@settings(max_examples=500, deadline=None)
@given(STEPS)
def test_all_replicas_and_the_store_converge(steps: list[tuple[str, int]]) -> None:
    world = play(steps)
    assert {msgspec.json.encode(one) for one in world.known} == {msgspec.json.encode(world.stored)}
    for replica in range(3):
        assert not merge(world.stored, world.known[replica]).write


@settings(max_examples=500, deadline=None)
@given(STEPS)
def test_no_accepted_change_that_a_replica_knew_is_lost_silently(
    steps: list[tuple[str, int]],
) -> None:
    world = play(steps)
    assert set(world.accepted) - world.ancestors() <= world.reported_with_ancestors()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["commit", "look"]), st.integers(0, 2)), max_size=30))
def test_without_losses_every_accepted_change_is_in_effect(steps: list[tuple[str, int]]) -> None:
    world = play(steps)
    assert world.ancestors() == set(world.accepted)
    assert world.reported == set()


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 2))
def test_the_last_change_accepted_after_the_last_loss_is_in_effect(
    steps: list[tuple[str, int]], replica: int
) -> None:
    world = play([*steps, ("commit", replica)])
    assert world.stored.reason == world.accepted[-1]


def test_a_digest_covers_the_content_and_not_its_encoding() -> None:
    one = RoutingRecord("m", 2, {"A": Slot(1, "r", "caller", Mode.SSOT), "B": slot(2)})
    turned = RoutingRecord("m", 2, dict(reversed(one.variants.items())))
    assert msgspec.json.encode(one) != msgspec.json.encode(turned)
    assert (
        digest(one)
        == digest(turned)
        == digest(decode_record(msgspec.json.encode(one), "m", "here"))
    )
    other = digest(msgspec.structs.replace(one, reason="other"))
    assert not same_content(digest(one), other)
    assert digest(NOTHING) is None
    stored_with_a_digest = msgspec.json.encode(one)[:-1] + b',"digest":"forged"}'
    assert digest(decode_record(stored_with_a_digest, "m", "here")) == digest(one)


@pytest.mark.parametrize("ancestor", ["", "x", "7", "-1:ab", "1.5:ab", f"{10**20}:ab"])
def test_ancestors_that_cannot_be_read_are_refused_with_what_to_do(ancestor: str) -> None:
    data = msgspec.json.encode(RoutingRecord("m", 3, {"A": slot(1)}, ancestors=(ancestor,)))
    with pytest.raises(RecordRefused, match=r"ancestors\[0\].*restore it, or move it away"):
        decode_record(data, "m", "here")


@pytest.mark.parametrize(
    "changes",
    [
        *({"traffic": {"percent": 1e308}}, {"traffic": {"percent": -1}}),
        *(
            {"variants": {"A": {"triton_url": url}}}
            for url in ("http://[::1", "http://t:99999", "http://t:x", "ftp://t", "http://", "t")
        ),
    ],
    ids=repr,
)
def test_values_that_no_gateway_could_route_by_are_refused(changes: dict[str, Any]) -> None:
    record = json.loads(msgspec.json.encode(RoutingRecord("m", 3, {"A": slot(1)})))
    for part, values in changes.items():
        target = record.setdefault(part, {})
        (target["A"] if "A" in values else target).update(values.get("A", values))
    with pytest.raises(RecordRefused, match=r"corrupt: .*restore it, or move it away"):
        decode_record(json.dumps(record).encode(), "m", "here")


def test_equal_signatures_of_a_record_and_the_next_one_are_one_object() -> None:
    signature = Signature((Feature("x", DType.FP64, nullable=True),), "row", ("no", "yes"))
    slots = [Slot(n, f"run-{n}", "registry", Mode.SSOT, signature) for n in range(1, 4)]
    one = RoutingRecord("m", 3, {"A": slots[2], "B": slot(9)}, previous={"A": (*slots[:2],)})
    read = decode_record(msgspec.json.encode(one), "m", "here")
    assert read == one
    assert type(read.variants["A"]) is Slot
    again = decode_record(msgspec.json.encode(one), "m", "here")
    held = [read.variants["A"], *read.previous["A"], again.variants["A"]]
    assert len({id(each.signature) for each in held}) == 1
    assert read.variants["B"].signature is None


def slot(version: int) -> Slot:
    return Slot(version, f"run-{version}", "caller", Mode.SSOT)


PLAN = ReleasePlan((Traffic(Strategy.SPLIT, 10.0),))
AT = "2026-01-01T00:00:00.000Z"
RELEASE = Release("id", 2, "run-2", 1, PLAN, ReleaseState.RUNNING, 0, AT, AT, "token:pipeline")
ONE, TWO, THREE = (Slot(one, f"run-{one}", "caller", Mode.SSOT) for one in (1, 2, 3))
RELEASING = RoutingRecord(
    "m", 5, {"A": ONE, "B": TWO}, PLAN.steps[0], changed_at=AT, release=RELEASE
)


def changed_by_an_old_gateway(record: RoutingRecord, **changes: Any) -> RoutingRecord:
    """A change by a gateway that does not know of releases."""
    later = "2026-01-01T00:01:00.000Z"
    fields = {"generation": record.generation + 1, "changed_at": later, "changed_by": "token:old"}
    after = msgspec.structs.replace(record, **{**fields, "release": None, **changes})
    return with_ancestor(after, record)


def test_change_by_a_gateway_without_releases_ends_the_release_and_its_traffic() -> None:
    stored = changed_by_an_old_gateway(RELEASING, reason="an operator's")
    merged = merge(stored, RELEASING)
    assert (merged.write, merged.record.generation) == (True, 7)
    release = merged.record.release
    assert release is not None
    assert (release.state, release.since) == (ReleaseState.STOPPED, stored.changed_at)
    assert "did not know of it, by token:old" in (release.reason or "")
    assert merged.record.variants == {"A": ONE}
    assert merged.record.traffic == Traffic()
    assert merge(merged.record, merged.record) == Merge(merged.record, write=False)
    assert merge(stored, RELEASING) == merged, "every replica writes the same"


def test_change_by_a_gateway_without_releases_keeps_its_own_b_and_ended_releases() -> None:
    stored = changed_by_an_old_gateway(RELEASING, variants={"A": ONE, "B": THREE})
    assert merge(stored, RELEASING).record.variants == {"A": ONE, "B": THREE}
    ended = msgspec.structs.replace(RELEASE, state=ReleaseState.COMPLETED)
    known = msgspec.structs.replace(RELEASING, release=ended)
    merged = merge(changed_by_an_old_gateway(known), known).record
    assert (merged.release, merged.traffic) == (ended, known.traffic)


def test_release_that_the_store_has_wins_over_an_older_one() -> None:
    newer = msgspec.structs.replace(RELEASE, id="newer")
    stored = msgspec.structs.replace(RELEASING, generation=9, release=newer)
    assert merge(stored, RELEASING).record == stored
