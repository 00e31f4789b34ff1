"""From one routing record to the next, and what a replica may say about itself."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from serving_gateway.contract import (
    Lineage,
    Mode,
    ReloadRequest,
    RoutingRecord,
    Slot,
    Strategy,
    Traffic,
    TrafficRequest,
)
from serving_gateway.control.transitions import (
    KEPT_PREVIOUS,
    KEPT_SWITCHES,
    choose,
    next_generation,
    previous_slot,
    remove,
    roll_back,
    with_slot,
    with_traffic,
    without_variant,
)
from serving_gateway.errors import Conflict, GatewayError, InvalidInput, VariantUnavailable
from serving_gateway.inference.readiness import unready_reasons

EMPTY = RoutingRecord(model_name="m")


def slot(version: int, mode: Mode = Mode.SSOT, run_id: str | None = None) -> Slot:
    return Slot(version, run_id or f"run-{version}", "registry", mode)


def on(version: int, mode: Mode = Mode.SSOT) -> RoutingRecord:
    return with_slot(EMPTY, "A", slot(version, mode))


@pytest.mark.parametrize(
    ("record", "request_", "ready", "version", "mode"),
    [
        (EMPTY, ReloadRequest(), (3,), 3, Mode.SSOT),
        (EMPTY, ReloadRequest(version=2), (2, 3), 2, Mode.PINNED),
        (EMPTY, ReloadRequest(version=2, mode=Mode.SSOT), (2, 3), 2, Mode.SSOT),
        (on(2), ReloadRequest(), (2, 3), 2, Mode.SSOT),
        (on(2), ReloadRequest(), (3,), 3, Mode.SSOT),
        (on(2, Mode.PINNED), ReloadRequest(), (2, 3), 2, Mode.PINNED),
        (on(2, Mode.PINNED), ReloadRequest(version=3), (2, 3), 3, Mode.PINNED),
        (on(2, Mode.PINNED), ReloadRequest(unpin=True), (2, 3), 2, Mode.SSOT),
        (on(2, Mode.PINNED), ReloadRequest(unpin=True), (3,), 3, Mode.SSOT),
    ],
)
def test_a_reload_chooses(
    record: RoutingRecord,
    request_: ReloadRequest,
    ready: tuple[int, ...],
    version: int,
    mode: Mode,
) -> None:
    assert choose(record, "A", request_, ready) == (version, mode)


@pytest.mark.parametrize(
    ("record", "request_", "ready", "error", "code"),
    [
        (EMPTY, ReloadRequest(), (), VariantUnavailable, "nothing_ready"),
        (EMPTY, ReloadRequest(), (2, 3), Conflict, "ambiguous_versions"),
        (on(1), ReloadRequest(), (2, 3), Conflict, "ambiguous_versions"),
        (on(2, Mode.PINNED), ReloadRequest(), (3,), Conflict, "variant_pinned"),
        (
            on(2, Mode.PINNED),
            ReloadRequest(version=2, mode=Mode.SSOT),
            (2,),
            Conflict,
            "variant_pinned",
        ),
    ],
)
def test_a_reload_refuses_to_guess(
    record: RoutingRecord,
    request_: ReloadRequest,
    ready: tuple[int, ...],
    error: type[GatewayError],
    code: str,
) -> None:
    with pytest.raises(error) as caught:
        choose(record, "A", request_, ready)
    assert caught.value.code == code


def test_history_is_newest_first_without_repeats_and_bounded() -> None:
    record = EMPTY
    for version in (1, 2, 1, 3):
        record = with_slot(record, "A", slot(version))
    assert [s.version for s in record.previous["A"]] == [1, 2]
    for version in range(4, 30):
        record = with_slot(record, "A", slot(version))
    assert len(record.previous["A"]) == KEPT_PREVIOUS


def test_the_same_slot_is_not_a_change_whatever_source_confirmed_it() -> None:
    record = on(2)
    by_record = Slot(2, "run-2", "record", Mode.SSOT)
    assert with_slot(record, "A", by_record) is record
    assert with_slot(record, "A", slot(2, run_id="other")) is not record
    known = msgspec.structs.replace(slot(2), lineage=Lineage(code_version="abc"))
    assert with_slot(record, "A", known) is record


def test_rollbacks_go_further_back_and_never_forward() -> None:
    record = EMPTY
    for version in (1, 2, 3):
        record = with_slot(record, "A", slot(version))
    once = roll_back(record, "A", previous_slot(record, "A"))
    assert (once.variants["A"].version, once.variants["A"].mode) == (2, Mode.PINNED)
    twice = roll_back(once, "A", previous_slot(once, "A"))
    assert twice.variants["A"].version == 1
    with pytest.raises(Conflict):
        previous_slot(twice, "A")


def test_a_rollback_may_go_to_any_version_and_from_there_only_to_older_ones() -> None:
    record = EMPTY
    for version in (2, 4, 6, 8):
        record = with_slot(record, "A", slot(version))
    kept = {
        target: [s.version for s in roll_back(record, "A", slot(target)).previous["A"]]
        for target in (4, 5, 1, 8)
    }
    assert kept == {4: [2], 5: [4, 2], 1: [], 8: [6, 4, 2]}
    pinned = roll_back(record, "A", slot(5))
    assert pinned.variants["A"] == slot(5, Mode.PINNED)
    assert roll_back(pinned, "A", slot(5)) is pinned
    first = roll_back(EMPTY, "A", slot(3))
    assert (first.variants["A"].version, first.previous["A"]) == (3, ())


def test_traffic_is_checked_and_the_same_policy_is_not_a_change() -> None:
    with pytest.raises(Conflict):
        with_traffic(on(1), TrafficRequest(Strategy.SPLIT, 5))
    both = with_slot(on(1), "B", slot(2))
    changed = with_traffic(both, TrafficRequest(Strategy.SPLIT, 5.25))
    assert changed.traffic.percent == 5.25
    assert with_traffic(changed, TrafficRequest(Strategy.SPLIT, 5.25)) is changed
    for percent in (-0.01, 100.01, 0.001, float("nan")):
        with pytest.raises(InvalidInput):
            with_traffic(both, TrafficRequest(Strategy.SPLIT, percent))


def test_a_generation_says_when_by_whom_and_why() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    record = next_generation(EMPTY, on(1), now=at, by="token", reason="better")
    assert (record.generation, record.changed_at) == (1, "2026-01-02T03:04:05.000Z")
    assert (record.changed_by, record.reason) == ("token", "better")


def moved(base: RoutingRecord, changed: RoutingRecord, reason: str = "because") -> RoutingRecord:
    at = datetime(2026, 1, 2, 3, 4, base.generation, tzinfo=UTC)
    return next_generation(base, changed, now=at, by="token", reason=reason)


def test_switches_in_either_direction_are_kept_and_nothing_else_is() -> None:
    first = moved(EMPTY, on(1))
    second = moved(first, with_slot(first, "A", slot(2, Mode.PINNED)), "short stay")
    shadow = moved(second, with_slot(second, "B", slot(1)))
    traffic = moved(shadow, with_traffic(shadow, TrafficRequest(Strategy.SPLIT, 5)))
    back = moved(traffic, roll_back(traffic, "A", previous_slot(traffic, "A")))
    unpinned = moved(back, with_slot(back, "A", slot(1)))
    assert (unpinned.generation, unpinned.switches) == (6, back.switches)
    kept = unpinned.switches["A"]
    assert [(s.generation, s.version, s.previous_version, s.after) for s in kept] == [
        (5, 1, 2, 2),
        (2, 2, 1, 1),
        (1, 1, None, 0),
    ]
    short = kept[1]
    assert (short.run_id, short.mode, short.by) == ("run-2", Mode.PINNED, "token")
    assert (short.reason, short.at) == ("short stay", "2026-01-02T03:04:01.000Z")
    assert [(s.generation, s.version) for s in unpinned.switches["B"]] == [(3, 1)]


def test_the_switches_that_are_kept_stay_few_and_small() -> None:
    record = EMPTY
    for turn in range(40):
        record = moved(record, with_slot(record, "A", slot(turn % 2 + 1)), "x" * 60_000)
    kept = record.switches["A"]
    assert [s.generation for s in kept] == list(range(40, 40 - KEPT_SWITCHES, -1))
    assert kept[-1].after == kept[-1].generation - 1, "it is known that there was one before"
    assert len(msgspec.json.encode(record.switches)) < 64_000


@pytest.mark.parametrize(
    ("problem", "draining", "ready"),
    [(None, False, True), (None, True, False), ("gone", False, False), ("gone", True, False)],
)
def test_readiness_is_variant_a_confirmed(problem: str | None, draining: bool, ready: bool) -> None:
    reasons = unready_reasons(1, problem, draining=draining, record_problem=None)
    assert bool(reasons) is not ready
    assert ("gone" in str(reasons)) is (problem is not None)


def test_a_store_in_trouble_does_not_make_an_effective_a_unready() -> None:
    down = "the store is down"
    assert unready_reasons(1, None, draining=False, record_problem=down) == ()
    (reason,) = unready_reasons(None, None, draining=False, record_problem=down)
    assert down in reason


def test_a_variant_that_is_cleared_leaves_no_traffic_and_can_be_rolled_back_to() -> None:
    record = with_slot(on(1), "B", slot(2))
    record = with_traffic(record, TrafficRequest(Strategy.MIRROR, 50))
    cleared = without_variant(record, "B")
    assert (set(cleared.variants), cleared.traffic) == ({"A"}, Traffic())
    assert previous_slot(cleared, "B").version == 2
    assert without_variant(cleared, "B") is cleared


def test_a_rollback_to_a_named_version_brings_a_removed_model_back() -> None:
    gone = moved(on(1), remove(on(1)))
    back = roll_back(gone, "A", slot(1))
    assert (back.removed, back.variants["A"].version) == (False, 1)
    assert remove(back).variants == {}


def test_a_removed_model_goes_on_from_its_generation_when_it_is_reloaded() -> None:
    record = moved(on(1), with_slot(on(1), "A", slot(2)))
    gone = moved(record, remove(record))
    assert (gone.removed, gone.variants, gone.generation) == (True, {}, record.generation + 1)
    assert remove(gone) is gone
    back = moved(gone, with_slot(gone, "A", slot(2)))
    assert (back.removed, back.generation) == (False, gone.generation + 1)


def test_change_times_grow_along_a_history_although_clocks_differ() -> None:
    ahead = datetime(2026, 1, 2, tzinfo=UTC)
    record = next_generation(on(1), on(1), now=ahead, by="a", reason=None)
    for _ in range(3):
        behind = datetime(2026, 1, 1, tzinfo=UTC)
        after = next_generation(record, record, now=behind, by="b", reason=None)
        assert (after.changed_at or "") > (record.changed_at or "")
        record = after
