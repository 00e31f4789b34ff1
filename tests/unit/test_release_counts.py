"""What a replica counts of a release while it answers, and what all replicas counted together."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec.structs import replace

from serving_gateway.contract import (
    LATENCY_EDGES,
    Guard,
    PhaseEvidence,
    Release,
    ReleaseDecision,
    ReleaseEvidence,
    ReleasePlan,
    ReleaseState,
    Strategy,
    Traffic,
    VersionCounts,
)
from serving_gateway.control.release_faults import (
    IN_A_ROW,
    UNREADY_SECONDS,
    CandidateState,
    find_fault,
)
from serving_gateway.control.release_report import total_evidence
from serving_gateway.control.release_watch import ReleaseWatch
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    InvalidInput,
    StoreUnavailable,
    TritonUnavailable,
)
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.release_counts import PhaseCounter
from serving_gateway.inference.shadow import compare
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication import release_counts
from serving_gateway.replication.release_counts import FileReleaseCounts
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.waiting import eventually

MIRROR, SPLIT = Traffic(Strategy.MIRROR, 100.0), Traffic(Strategy.SPLIT, 100.0)
PLAN = ReleasePlan((MIRROR, SPLIT), guardrails={Guard.FAILURES: 0.005})
AT = "2026-01-01T00:00:00.000Z"
RELEASE = Release("id", 2, "run-2", 1, PLAN, ReleaseState.RUNNING, 0, AT, AT, "token:pipeline")
IN_SPLIT = replace(RELEASE, step=1)
WATCHED = replace(IN_SPLIT, state=ReleaseState.WATCHING)
BODY = b'{"data":[[1.5,2.5]],"client_id":"c"}'


@pytest.fixture
async def plane(tmp_path: Path) -> Iterator[FakeTritonPlane]:  # type: ignore[misc]
    with FakeTritonPlane(tmp_path) as one:
        yield one


def counted(plane: FakeTritonPlane, phase: str) -> dict[str, tuple[int, int, int]]:
    """Requests, failed and timed requests, by role."""
    found = plane.router.counters.evidence("id").phases[phase]
    sides = {"candidate": found.candidate, "reference": found.reference}
    return {
        name: (one.requests, one.failed, sum(one.latencies.values())) for name, one in sides.items()
    }


async def settled(outcome: Outcome) -> Any:
    try:
        return json.loads(await outcome)
    except (InvalidInput, TritonUnavailable, BadUpstreamAnswer) as error:
        return error


async def test_a_mirror_step_counts_both_versions_and_how_their_answers_differ(
    plane: FakeTritonPlane,
) -> None:
    plane.route(MIRROR, release=RELEASE, A=1, B=2)
    await plane.predict(b'{"data":[[1.5,2.5],[3.5,4.5]]}')
    await eventually(lambda: counted(plane, "0")["candidate"][0] == 1)
    assert counted(plane, "0") == {"candidate": (1, 0, 1), "reference": (1, 0, 1)}
    found = plane.router.counters.evidence("id").phases["0"]
    assert (found.compared, found.disagreed) == (1, 1), "the label is the version"
    plane.triton.errors[2] = BadUpstreamAnswer("broken")
    await plane.predict(BODY)
    await eventually(lambda: counted(plane, "0")["candidate"][0] == 2)
    assert counted(plane, "0") == {"candidate": (2, 1, 1), "reference": (2, 0, 2)}
    stats = plane.metrics.variant("A", 1)
    assert stats.answered == 2, "metrics go on"


async def test_a_copy_for_which_there_is_no_room_counts_for_neither(tmp_path: Path) -> None:
    with FakeTritonPlane(tmp_path, mirror_in_flight=1, mirror_queue=1) as plane:
        plane.route(MIRROR, release=RELEASE, A=1, B=2)
        plane.triton.holds = {2}
        for _ in range(6):
            await plane.predict(BODY)
        plane.triton.holds = set()
        for call in plane.triton.calls:
            call.answer()
        dropped = plane.mirror.counts["dropped"]
        await eventually(lambda: counted(plane, "0")["candidate"][0] + int(dropped.value) == 6)
        assert dropped.value > 0
        assert counted(plane, "0")["candidate"][1] == 0, "none failed"
        assert counted(plane, "0")["reference"] == (6, 0, 6)


async def test_a_request_that_a_answers_instead_of_b_is_a_failure_of_b(
    plane: FakeTritonPlane,
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    assert (await settled(plane.predict(BODY)))["variant"] == "B"
    plane.triton.errors[2] = DeadlineExceeded("slow")
    assert (await settled(plane.predict(BODY)))["variant"] == "A"
    assert counted(plane, "1") == {"candidate": (2, 1, 1), "reference": (1, 0, 1)}
    plane.triton.version("m", 2).ready = False
    assert (await settled(plane.predict(BODY)))["variant"] == "A"
    assert counted(plane, "1")["candidate"] == (3, 2, 1)


async def test_an_inference_of_the_protocol_counts_like_a_prediction(
    plane: FakeTritonPlane,
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    body = json.dumps({"inputs": [tensor], "parameters": {"client_id": "c"}}).encode()
    assert (await plane.infer(body))[1:] == ("B", 2)
    plane.triton.errors[2] = BadUpstreamAnswer("broken")
    assert (await plane.infer(body))[1:] == ("A", 1)
    assert counted(plane, "1") == {"candidate": (2, 1, 1), "reference": (1, 0, 1)}


async def test_an_invalid_request_is_the_clients_unless_the_other_version_answers_it(
    plane: FakeTritonPlane,
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    wrong = b'{"data":[[1.5]],"client_id":"c"}'
    assert isinstance(await settled(plane.predict(wrong)), InvalidInput)
    assert counted(plane, "1") == {"candidate": (0, 0, 0), "reference": (0, 0, 0)}
    plane.triton.errors[2] = InvalidInput("B reads something else")
    assert (await settled(plane.predict(BODY)))["variant"] == "A"
    assert counted(plane, "1") == {"candidate": (1, 1, 0), "reference": (1, 0, 1)}


async def test_a_failure_of_production_counts_unless_triton_is_gone(
    plane: FakeTritonPlane,
) -> None:
    plane.route(MIRROR, release=RELEASE, A=1, B=2)
    plane.triton.errors[1] = BadUpstreamAnswer("broken")
    assert isinstance(await settled(plane.predict(BODY)), BadUpstreamAnswer)
    assert counted(plane, "0")["reference"] == (1, 1, 0)
    for version in (1, 2):
        plane.triton.errors[version] = TritonUnavailable("gone")
        plane.triton.version("m", version).ready = False
    await asyncio.gather(plane.predict(BODY), return_exceptions=True)
    assert counted(plane, "0")["reference"] == (1, 1, 0)


async def test_a_request_whose_client_left_counts_as_failed_where_it_was(
    plane: FakeTritonPlane,
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    plane.triton.holds = {1, 2}
    plane.predictor.submit(BODY, Outcome()).abandon()
    plane.predictor.submit(b'{"data":[[1.5,2.5]]}', Outcome()).abandon()
    assert counted(plane, "1") == {"candidate": (1, 1, 0), "reference": (1, 1, 0)}


async def test_a_request_of_the_platform_counts_for_nothing(plane: FakeTritonPlane) -> None:
    plane.route(MIRROR, release=RELEASE, A=1, B=2)
    own = Outcome()
    own.is_traffic = False
    plane.predictor.submit(BODY, own)
    await own
    assert counted(plane, "0") == {"candidate": (0, 0, 0), "reference": (0, 0, 0)}


async def test_a_request_counts_in_the_phase_in_which_it_was_sent(plane: FakeTritonPlane) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    plane.triton.holds = {2}
    outcome = plane.predict(BODY)
    plane.route(release=replace(IN_SPLIT, state=ReleaseState.STOPPED), A=1)
    plane.triton.calls[0].answer()
    assert (await settled(outcome))["version"] == 2
    assert counted(plane, "1")["candidate"] == (1, 0, 1)
    assert plane.router.table.targets["A"].counter is None, "nothing is counted after it"


async def test_after_the_switch_the_roles_are_exchanged(plane: FakeTritonPlane) -> None:
    plane.route(MIRROR, release=WATCHED, A=2, B=1)
    await plane.predict(BODY)
    plane.triton.errors[2] = BadUpstreamAnswer("broken")
    await settled(plane.predict(BODY))
    await eventually(lambda: counted(plane, "watch")["reference"][0] == 1)
    assert counted(plane, "watch") == {"candidate": (2, 1, 1), "reference": (1, 0, 1)}


def compared(
    ours: ModelOutput, theirs: ModelOutput, plan: ReleasePlan = PLAN, *, is_watched: bool = False
) -> PhaseEvidence:
    phase = PhaseCounter(plan, is_watched=is_watched, on_failure=lambda: None)
    phase.compare(ours, theirs, compare(ours, theirs))
    return phase.evidence()


def test_scores_are_the_largest_probability_and_roles_decide_the_sign() -> None:
    ours = ModelOutput([0, 1], [[0.75, 0.25], [0.5, 0.5]])
    theirs = ModelOutput([0, 0], [[0.5, 0.5], [0.75, 0.25]])
    found = compared(ours, theirs)
    assert (found.compared, found.shift, found.shift_squares) == (1, 0.0, 0.0)
    one = ModelOutput([0], [[0.75, 0.25]]), ModelOutput([0], [[0.5, 0.5]])
    assert compared(*one).shift == -0.25
    assert compared(*one, is_watched=True).shift == 0.25


def test_numbers_disagree_by_the_margin_of_the_shift_in_units_of_the_scale() -> None:
    ours, theirs = ModelOutput([10.0, 10.0, 0.0], None), ModelOutput([10.9, 11.1, 50.0], None)
    found = compared(ours, theirs, replace(PLAN, score_scale=10.0))
    assert found.compared == 1
    assert found.shift == pytest.approx((0.09 + 0.11 + 1.0) / 3), "limited to 1"
    for change, margin, disagreed in ((0.9, 0.1, 0), (1.1, 0.1, 1), (1.1, 0.2, 0), (50.0, 0.2, 1)):
        pair = ModelOutput([10.0], None), ModelOutput([10.0 + change], None)
        plan = replace(PLAN, score_scale=10.0, guardrails={Guard.SCORE_SHIFT: margin})
        assert compared(*pair, plan).disagreed == disagreed


def test_rows_of_a_request_that_resemble_each_other_count_once() -> None:
    """Its share of disagreeing rows is right on average, whatever the rhythm of the requests."""
    phase = PhaseCounter(PLAN, is_watched=False, on_failure=lambda: None)
    for request in range(3_000):
        rows = 1 + request % 4  # of which the first disagrees
        ours = ModelOutput(["a"] * rows, None)
        theirs = ModelOutput(["b", *["a"] * (rows - 1)], None)
        phase.compare(ours, theirs, compare(ours, theirs))
    found = phase.evidence()
    assert found.compared == 3_000
    assert found.disagreed / 3_000 == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=0.01)


def test_labels_without_a_score_have_no_shift_and_nan_is_a_failure() -> None:
    found = compared(ModelOutput(["a"], None), ModelOutput(["b"], None))
    assert (found.compared, found.disagreed, found.shift) == (1, 1, 0.0)
    found = compared(ModelOutput([1.0], None), ModelOutput([float("nan")], None, is_finite=False))
    assert (found.compared, found.candidate.failed) == (0, 1)


def test_latencies_are_counted_by_the_edges_of_the_contract() -> None:
    phase = PhaseCounter(PLAN, is_watched=False, on_failure=lambda: None)
    for seconds in (LATENCY_EDGES[7], 1_000.0):
        phase.candidate.answer(seconds)
    assert phase.evidence().candidate.latencies == {7: 1, len(LATENCY_EDGES): 1}


def evidence(requests: int, failed: int = 0, release_id: str = "id") -> ReleaseEvidence:
    phase = PhaseEvidence(VersionCounts(requests, failed), VersionCounts(1_000, 1))
    return ReleaseEvidence(release_id, {"0": phase})


async def test_counts_of_replicas_and_of_ended_processes_add_up(tmp_path: Path) -> None:
    store = FileReleaseCounts(tmp_path)
    await store.put("m", "one", evidence(5), has_ended=False)
    await store.put("m", "one", evidence(7), has_ended=False)
    await store.put("m", "two", evidence(4, 1), has_ended=False)
    await store.put("other", "one", evidence(100), has_ended=False)
    found = await FileReleaseCounts(tmp_path).read("m", "id")
    assert sorted(found) == ["one", "two"]
    total = total_evidence("id", found.values()).phases["0"]
    assert (total.candidate.requests, total.candidate.failed) == (11, 1)
    assert total.reference.requests == 2_000
    assert total_evidence("next", found.values()).phases == {}


async def test_counts_of_a_release_are_bounded_and_go_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_counts, "MOST_PROCESSES", 2)
    store = FileReleaseCounts(tmp_path)
    for process in ("one", "two"):
        await store.put("m", process, evidence(5), has_ended=False)
    with pytest.raises(StoreUnavailable, match="2 processes"):
        await store.put("m", "three", evidence(5), has_ended=False)
    await store.put("m", "two", evidence(6), has_ended=False)
    await store.end("m", "next")
    assert await store.read("m", "id"), "they are kept for a day"
    monkeypatch.setattr(release_counts, "_KEPT_SECONDS", -1)
    await store.end("m", "id")
    assert await store.read("m", "id"), "those of the present release stay"
    await store.end("m", "next")
    assert not await store.read("m", "id")


@pytest.mark.parametrize(
    "phase",
    [
        PhaseEvidence(VersionCounts(-500)),
        PhaseEvidence(VersionCounts(5, 50)),
        PhaseEvidence(VersionCounts(5, 0, {3: -50})),
        PhaseEvidence(VersionCounts(5, 0, {3: 2**60})),
        PhaseEvidence(VersionCounts(2**60)),
        PhaseEvidence(compared=-5),
        PhaseEvidence(compared=5, disagreed=6),
        PhaseEvidence(compared=5, shift=4_000.0, shift_squares=5.0),
        PhaseEvidence(compared=5, shift_squares=-1.0),
    ],
)
async def test_counts_that_no_process_can_have_made_are_named_and_spoil_no_report(
    tmp_path: Path, phase: PhaseEvidence
) -> None:
    store = FileReleaseCounts(tmp_path)
    await store.put("m", "one", ReleaseEvidence("id", {"0": phase}), has_ended=False)
    with pytest.raises(StoreUnavailable, match="What one counted of a release cannot be read"):
        await store.read("m", "id")


async def test_counts_beyond_a_megabyte_are_refused_unread(tmp_path: Path) -> None:
    store = FileReleaseCounts(tmp_path)
    phases = {str(at): PhaseEvidence() for at in range(20_000)}
    await store.put("m", "one", ReleaseEvidence("id", phases), has_ended=False)
    with pytest.raises(StoreUnavailable, match="bytes"):
        await store.read("m", "id")


FINE = CandidateState(0.0, 0, None)


@pytest.mark.parametrize(
    ("own", "state", "said"),
    [
        (evidence(1_000, 1), FINE, None),
        (evidence(1_000, 0), CandidateState(UNREADY_SECONDS / 2, IN_A_ROW - 1, "x"), None),
        (evidence(100, 30), FINE, "30 of 100 requests.*1 of 1000.*margin of 0.50%"),
        (evidence(0), CandidateState(UNREADY_SECONDS, 0, "unloaded."), "READY for 2 s: unloaded"),
        (evidence(0), CandidateState(0.0, IN_A_ROW, None), "last 20 requests in a row"),
    ],
)
def test_a_fault_beyond_doubt_is_named_with_its_numbers(
    own: ReleaseEvidence, state: CandidateState, said: str | None
) -> None:
    fault = find_fault(RELEASE, own, state)
    if said is None:
        assert fault is None
    else:
        assert fault is not None
        assert re.search(said, fault), fault


def test_what_was_counted_before_the_switch_says_nothing_after_it() -> None:
    assert find_fault(RELEASE, evidence(100, 50), FINE) is not None
    assert find_fault(WATCHED, evidence(100, 50), FINE) is None


def test_failures_in_a_row_are_those_while_the_other_version_did_not_fail() -> None:
    phase = PhaseCounter(PLAN, is_watched=False, on_failure=lambda: None)
    phase.candidate.fail()
    phase.candidate.fail()
    assert phase.candidate.failed_in_row == 2
    phase.reference.fail()
    assert (phase.candidate.failed_in_row, phase.reference.failed_in_row) == (0, 1)
    phase.candidate.fail()
    phase.candidate.answer(0.01)
    assert (phase.candidate.failed_in_row, phase.candidate.failed) == (0, 3)


@pytest.mark.parametrize("production", ["does not answer", "answers", "answers, as B does by then"])
async def test_a_release_is_ended_only_where_production_was_asked_and_can_take_over(
    plane: FakeTritonPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, production: str
) -> None:
    plane.route(SPLIT, release=IN_SPLIT, A=1, B=2)
    counter = plane.router.table.targets["B"].counter
    assert counter is not None
    for _ in range(IN_A_ROW):
        counter.fail()
    stops: list[str] = []

    class Control:
        async def stop(self, decision: ReleaseDecision, by: str) -> None:
            stops.append(f"{by}: {decision.reason}")

    async def probe(client: VersionClient) -> None:
        if production != "does not answer":
            client.state.mark_ready()
        if production == "answers, as B does by then":
            counter.answer(0.01)

    monkeypatch.setattr(VersionClient, "probe", probe)
    store = FileReleaseCounts(tmp_path)
    await ReleaseWatch(plane.router, cast(Any, Control()), store, "one").protect()
    reason = "replica:one: version 2 failed the last 20 requests in a row (seen by one)"
    assert stops == ([reason] if production == "answers" else [])


def test_trouble_of_both_versions_in_an_earlier_step_is_no_fault() -> None:
    trouble, calm = VersionCounts(500, 100), VersionCounts(50_000)
    phases = {"0": PhaseEvidence(trouble, trouble), "1": PhaseEvidence(VersionCounts(500), calm)}
    second = replace(RELEASE, step=1)
    assert find_fault(second, ReleaseEvidence(RELEASE.id, phases), FINE) is None
