"""Predictions joined with outcomes: exactly, and always in the same way."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_assets.components.loading import read_models
from platform_assets.features.source import open_source
from platform_assets.features.sources.reader import Progress
from platform_assets.model_spec import (
    EventTime,
    Gates,
    JoinKey,
    ModelSpec,
    Outcomes,
    Source,
    Target,
    Task,
)
from platform_assets.quality.comparisons import paired_outcomes
from platform_assets.quality.log_files import LogFiles
from platform_assets.quality.matching import match
from platform_assets.quality.records import OutcomeCounts, QualityError
from platform_assets.quality.source_outcomes import copy_source_outcomes, outcome_rows
from platform_assets.resources.source import SourceResource
from serving_gateway.contract import BoundedMean, DType, PairedOutcomes
from tests.support.models import IRIS
from tests.support.prediction_log import BEGIN, Logged, Sent, write_log, write_outcomes
from tests.support.several_tables import BEGIN as FIRST_PAYMENT
from tests.support.several_tables import MODEL, tables, write_files

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LATER = BEGIN + 30 * DAY
SPEC = replace(
    IRIS,
    model_name="churn",
    task=Task.BINARY,
    target=Target("left", classes=("no", "yes")),
    gates=Gates(metric_floor=0.5),
    outcomes=Outcomes(outcome_delay=DAY),
)
REGRESSION = replace(
    SPEC,
    task=Task.REGRESSION,
    target=Target("days", type=DType.FP64),
    candidates=(),
    evaluation=replace(IRIS.evaluation, metric="mean_absolute_error"),
)

Row = tuple[str, int, str | None, bool, bool]


def _matched(root: Path, spec: ModelSpec = SPEC, now: datetime = LATER) -> list[Row]:
    """Id, row, outcome, whether it is matured, whether it was late."""
    with match(root, spec, since=BEGIN, until=BEGIN + 2 * DAY, now=now) as found:
        rows: list[Row] = found.database.sql(
            "SELECT id, row, outcome, is_matured, is_late FROM matched ORDER BY id, row"
        ).fetchall()
    return rows


def _counts(root: Path, spec: ModelSpec = SPEC) -> OutcomeCounts:
    with match(root, spec, since=BEGIN, until=BEGIN + 2 * DAY, now=LATER) as found:
        return found.counts()


def test_outcome_is_joined_by_id_and_row(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a"), Logged(id="a", row=1), Logged(id="b")])
    write_outcomes(tmp_path, "churn", [Sent(id="a", row=1, value="no", at=BEGIN + HOUR)])

    assert _matched(tmp_path) == [
        ("a", 0, None, True, False),
        ("a", 1, "no", True, False),
        ("b", 0, None, True, False),
    ]
    assert _counts(tmp_path) == OutcomeCounts(predictions=3, matured=3, answered=1)
    assert _counts(tmp_path).coverage == pytest.approx(1 / 3)


def test_prediction_is_matured_once_its_delay_has_passed(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a"), Logged(id="b", at=BEGIN + HOUR)])

    rows = _matched(tmp_path, now=BEGIN + DAY)

    assert [(one[0], one[3]) for one in rows] == [("a", True), ("b", False)]


def test_first_of_contradicting_outcomes_counts_and_both_are_counted(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a")])
    at = BEGIN + HOUR
    write_outcomes(tmp_path, "churn", [Sent(id="a", value="yes", at=at + HOUR)], "later")
    write_outcomes(tmp_path, "churn", [Sent(id="a", value="no", at=at)], "earlier")
    write_outcomes(tmp_path, "churn", [Sent(id="a", value="no", at=at + 2 * HOUR)], "again")

    assert _matched(tmp_path) == [("a", 0, "no", True, False)]
    assert _counts(tmp_path) == OutcomeCounts(
        predictions=1, matured=1, answered=1, duplicate=1, contradicting=1
    )


def test_late_unmatched_and_unusable_outcomes_are_counted(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a"), Logged(id="b")])
    write_outcomes(
        tmp_path,
        "churn",
        [
            Sent(id="a", value="yes", at=BEGIN + DAY + HOUR),
            Sent(id="b", value="perhaps", at=BEGIN + HOUR),
            Sent(id="other", value="yes", at=BEGIN + HOUR),
        ],
    )

    assert _matched(tmp_path) == [("a", 0, "yes", True, True), ("b", 0, None, True, False)]
    assert _counts(tmp_path) == OutcomeCounts(
        predictions=2, matured=2, answered=1, late=1, unmatched=1, unusable=1
    )


def test_row_in_two_files_is_no_duplicate(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a")])
    for file in ("small", "merged"):
        write_outcomes(tmp_path, "churn", [Sent(id="a", value="no", at=BEGIN)], file)

    assert _counts(tmp_path).duplicate == 0


def test_model_without_log_has_nothing_to_join(tmp_path: Path) -> None:
    assert _matched(tmp_path) == []
    assert _counts(tmp_path) == OutcomeCounts()


def _spoil(path: Path, how: str) -> None:
    """Make a file of the log what no reader can use."""
    whole = path.read_bytes()
    match how:
        case "text":
            path.write_text("not Parquet")
        case "cut off":
            path.write_bytes(whole[:-20])
        case "empty":
            path.write_bytes(b"")
        case "damaged inside":
            path.write_bytes(whole[:4] + bytes(300) + whole[304:])
        case "another type":
            other = pq.read_table(path, partitioning=None)
            texts = pa.array(["now"] * other.num_rows)
            at = other.schema.get_field_index("sample_time")
            pq.write_table(other.set_column(at, "sample_time", texts), path)


@pytest.mark.parametrize(
    ("day", "how"),
    [
        *((0, how) for how in ("text", "cut off", "empty", "damaged inside", "another type")),
        *((-5, how) for how in ("text", "cut off", "empty")),
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside_and_the_rest_is_joined(
    tmp_path: Path, day: int, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_log(tmp_path, "churn", [Logged(id="a", answer="no")])
    at = BEGIN + day * DAY
    write_log(tmp_path, "churn", [Logged(id="b", at=at)] * 9, "spoiled")
    spoiled = tmp_path / "churn" / f"date={at.date()}" / "spoiled.parquet"
    _spoil(spoiled, how)
    for _ in range(2):
        assert [row[0] for row in _matched(tmp_path)] == ["a"]
        counts = _counts(tmp_path)
        assert counts.predictions == 1
        assert counts.files_set_aside == (day == 0)
    assert not spoiled.exists()
    assert spoiled.with_name("spoiled.parquet.unreadable").exists(), "it may be looked at"
    [warning] = caplog.messages
    assert warning.startswith(f"{spoiled} cannot be used: ")
    assert "its rows are missing in what is measured" in warning


def test_outcomes_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a")])
    write_outcomes(tmp_path, "churn", [Sent(id="a", value="no", at=BEGIN)])
    LogFiles(tmp_path, "churn").source_outcomes.write_bytes(b"PAR1")
    broken = tmp_path / "churn" / "outcomes" / f"date={BEGIN.date()}" / "b.parquet"
    broken.write_bytes(b"PAR1")
    assert [row[2] for row in _matched(tmp_path)] == ["no"]
    assert _counts(tmp_path).files_set_aside == 1
    assert broken.with_name("b.parquet.unreadable").exists()


def test_a_feature_that_is_called_as_a_column_of_outcomes_is_none(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a")])
    [path] = (tmp_path / "churn").glob("date=*/a.parquet")
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.append_column("outcome", pa.array([1.5])), path)
    path.with_name("b.parquet").write_bytes(b"")
    assert [row[0] for row in _matched(tmp_path)] == ["a"]
    assert path.exists()


def test_a_file_that_cannot_be_set_aside_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, "churn", [Logged(id="a")])
    foreign = tmp_path / "churn" / f"date={BEGIN.date()}" / "notes.parquet"
    foreign.mkdir()

    with pytest.raises(QualityError, match=r"notes\.parquet"):
        _matched(tmp_path)


@dataclass
class _Reference:
    """The rule, row by row."""

    outcome: str
    duplicate: int
    contradicting: int
    late: bool


def _reference(sent: list[Sent], logged: Logged) -> _Reference | None:
    own = sorted((s for s in sent if s.id == logged.id), key=lambda one: one.at)
    if not own:
        return None
    first, rest = own[0], own[1:]
    return _Reference(
        first.value,
        sum(one.value == first.value for one in rest),
        sum(one.value != first.value for one in rest),
        first.at > logged.at + DAY,
    )


def test_join_agrees_with_the_rule_whatever_the_order_of_the_outcomes(tmp_path: Path) -> None:
    draw = random.Random(7)
    logged = [
        Logged(id=f"p{n}", at=BEGIN + timedelta(seconds=draw.randrange(172_000)))
        for n in range(2_000)
    ]
    sent = [
        Sent(
            id=one.id,
            value=draw.choice(["yes", "no"]),
            at=one.at + DAY * draw.random() * (1.2 if draw.random() < 0.1 else 1),
        )
        for one in logged
        if draw.random() < 0.9
        for _ in range(1 + (draw.random() < 0.1) + (draw.random() < 0.05))
    ]
    results = []
    for number in range(2):
        root = tmp_path / str(number)
        draw.shuffle(sent)
        write_log(root, "churn", logged)
        for part in range(3):
            write_outcomes(root, "churn", sent[part::3], f"part{part}")
        results.append((_matched(root), _counts(root)))

    references = {one.id: _reference(sent, one) for one in logged}
    known = [one for one in references.values() if one]
    assert results[0] == results[1]
    assert {row[0]: (row[2], row[4]) for row in results[0][0]} == {
        name: (one.outcome, one.late) if one else (None, False) for name, one in references.items()
    }
    assert results[0][1] == OutcomeCounts(
        predictions=2_000,
        matured=2_000,
        answered=len(known),
        late=sum(one.late for one in known),
        duplicate=sum(one.duplicate for one in known),
        contradicting=sum(one.contradicting for one in known),
    )


def _with_source(folder: Path, rows: str, **outcomes: object) -> ModelSpec:
    file = folder / "outcomes.csv"
    file.write_text(rows)
    given = Outcomes(source=Source(file=str(file)), **outcomes)  # type: ignore[arg-type]
    return replace(SPEC, join_key=JoinKey("customer"), outcomes=given)


def _copy(spec: ModelSpec, root: Path) -> int:
    return copy_source_outcomes(spec, SourceResource(), LogFiles(root, spec.model_name))


def test_source_gives_the_first_outcome_at_or_after_the_answer(tmp_path: Path) -> None:
    spec = _with_source(
        tmp_path,
        "customer,at,left\n"
        "1,2026-02-28T23:59:59Z,no\n1,2026-03-01T00:00:00Z,yes\n1,2026-03-01T02:00:00Z,no\n"
        "2,2026-03-02T00:00:01Z,yes\n3,2026-03-01T01:00:00Z,\n",
        event_time=EventTime("at"),
        outcome_delay=DAY,
    )
    write_log(tmp_path, "churn", [Logged(id=f"p{n}", entity=f"{n}") for n in (1, 2, 3)])
    write_log(tmp_path, "churn", [Logged(id="none")], "without")

    assert _copy(spec, tmp_path) == 4
    assert [row[:3] for row in _matched(tmp_path, spec)] == [
        ("none", 0, None),
        ("p1", 0, "yes"),
        ("p2", 0, None),  # a second after its window
        ("p3", 0, None),
    ]


def test_tolerance_takes_outcomes_from_before_the_answer(tmp_path: Path) -> None:
    spec = _with_source(
        tmp_path,
        "customer,at,left\n1,2026-02-28T23:59:30Z,no\n",
        event_time=EventTime("at"),
        tolerance=timedelta(minutes=1),
    )
    write_log(tmp_path, "churn", [Logged(id="p1", entity="1")])
    _copy(spec, tmp_path)

    assert [row[2] for row in _matched(tmp_path, spec)] == ["no"]


def test_source_without_times_gives_the_outcome_of_the_entity(tmp_path: Path) -> None:
    spec = _with_source(tmp_path, "customer,left\n1,no\n1,yes\n1,no\n2,yes\n")
    write_log(tmp_path, "churn", [Logged(id=f"p{n}", entity=f"{n}") for n in (1, 2)])
    _copy(spec, tmp_path)

    assert [row[2] for row in _matched(tmp_path, spec)] == ["no", "yes"]
    counts = _counts(tmp_path, spec)
    assert (counts.duplicate, counts.contradicting) == (1, 1)


def test_entity_of_several_keys_is_joined_by_all_of_them(tmp_path: Path) -> None:
    spec = _with_source(tmp_path, 'payer,shop,left\n1,"é""x",no\n1,b,yes\n')
    table = spec.outcome_table
    assert table is not None
    keys = (JoinKey("customer", source_column="payer"), JoinKey("shop", DType.BYTES))

    several = replace(table, join_key=keys[0], keys=keys)
    read = open_source(several, SourceResource()).read(Progress())
    assert outcome_rows(read.table, several)["entity"].to_pylist() == [
        '{"customer":1,"shop":"é\\"x"}',
        '{"customer":1,"shop":"b"}',
    ]


def test_label_table_gives_outcomes_by_all_keys_and_time(tmp_path: Path) -> None:
    known = tables(payments=40)
    write_files(tmp_path, known)
    file = tmp_path / "payments" / "defs.yaml"
    text = MODEL.replace("  labels:\n", "  outcomes: labels\n  labels:\n")
    file.write_text(text)
    [spec] = read_models(tmp_path).specs.values()
    log = [
        Logged(
            id=f"p{number}",
            at=at,
            entity=f'{{"customer_id":{payer},"shop_id":"{shop}"}}',
            answer="False",
        )
        for number, (payer, shop, at, _, _) in enumerate(known.payments)
    ]
    write_log(tmp_path, spec.model_name, log)
    assert copy_source_outcomes(spec, SourceResource(), LogFiles(tmp_path, spec.model_name)) == 40

    until = max(one.at for one in log) + DAY
    with match(tmp_path, spec, since=FIRST_PAYMENT, until=until, now=until) as found:
        rows = found.database.sql("SELECT id, outcome FROM matched").fetchall()
    assert dict(rows) == {
        f"p{number}": str(bad).lower() for number, (*_, bad) in enumerate(known.payments)
    }


def test_outcomes_of_a_source_have_the_names_of_the_classes(tmp_path: Path) -> None:
    spec = _with_source(tmp_path, "customer,left\n1,0\n2,1\n3,7\n")
    named = Target("left", classes=(0, 1), class_names=("no", "yes"))
    spec = replace(spec, target=named)
    write_log(tmp_path, "churn", [Logged(id=f"p{n}", entity=f"{n}") for n in (1, 2, 3)])
    _copy(spec, tmp_path)

    assert [row[2] for row in _matched(tmp_path, spec)] == ["no", "yes", None]


def test_sent_outcome_comes_before_that_of_the_source(tmp_path: Path) -> None:
    spec = _with_source(tmp_path, "customer,left\n1,no\n")
    write_log(tmp_path, "churn", [Logged(id="p1", entity="1")])
    write_outcomes(tmp_path, "churn", [Sent(id="p1", value="yes", at=BEGIN + HOUR)])
    _copy(spec, tmp_path)

    assert [row[2] for row in _matched(tmp_path, spec)] == ["yes"]
    assert _counts(tmp_path, spec).contradicting == 1


def test_removed_source_leaves_no_outcomes(tmp_path: Path) -> None:
    spec = _with_source(tmp_path, "customer,left\n1,no\n")
    write_log(tmp_path, "churn", [Logged(id="p1", entity="1")])
    _copy(spec, tmp_path)

    assert _copy(replace(spec, outcomes=None), tmp_path) == 0
    assert [row[2] for row in _matched(tmp_path, spec)] == [None]


def _paired(root: Path, spec: ModelSpec, **more: float) -> PairedOutcomes | BoundedMean:
    return paired_outcomes(root, spec, since=BEGIN, a_version=1, b_version=2, now=LATER, **more)


def test_pairs_are_mirrored_rows_with_matured_outcomes(tmp_path: Path) -> None:
    answers = [("yes", "yes"), ("yes", "no"), ("yes", "no"), ("no", "yes"), ("no", "no")]
    rows = [
        Logged(id=f"p{n}", answer=a, b_version=2, b_answer=b) for n, (a, b) in enumerate(answers)
    ]
    more = [
        Logged(id="unmirrored"),
        Logged(id="failed", b_version=2),
        Logged(id="other", version=3, b_version=2, b_answer="no"),
        Logged(id="young", at=LATER - HOUR, b_version=2, b_answer="no"),
        Logged(id="unknown", b_version=2, b_answer="no"),
    ]
    write_log(tmp_path, "churn", [*rows, *more])
    known = [one for one in [*rows, *more] if one.id != "unknown"]
    write_outcomes(tmp_path, "churn", [Sent(id=one.id, value="yes", at=one.at) for one in known])

    assert _paired(tmp_path, SPEC) == PairedOutcomes(only_b=2, only_a=1, alike=2)


def test_rows_of_a_request_are_one_pair_whichever_outcomes_are_known(tmp_path: Path) -> None:
    rows = [
        Logged(id=f"p{n}", row=row, answer="yes", b_version=2, b_answer="no")
        for n in range(20)
        for row in range(5)
    ]
    write_log(tmp_path, "churn", rows)
    counts = []
    for part in range(5):
        known = [
            Sent(id=one.id, row=one.row, value="yes", at=BEGIN) for one in rows if one.row == part
        ]
        write_outcomes(tmp_path, "churn", known, f"part{part}")
        pairs = _paired(tmp_path, SPEC)
        assert isinstance(pairs, PairedOutcomes)
        counts.append(pairs.only_b)

    assert counts == sorted(counts)
    assert counts[0] < 20
    assert counts[-1] == 20


def test_pairs_of_a_regression_are_limited_differences_of_errors(tmp_path: Path) -> None:
    rows = [(10.0, 12.0), (13.0, 11.0), (10.0, 60.0)]
    write_log(
        tmp_path,
        "churn",
        [Logged(id=f"p{n}", score=a, b_version=2, b_score=b) for n, (a, b) in enumerate(rows)],
    )
    sent = [Sent(id=f"p{n}", value="10", at=BEGIN + HOUR) for n in range(3)]
    write_outcomes(tmp_path, "churn", sent)

    found = _paired(tmp_path, REGRESSION, score_scale=20.0)

    assert isinstance(found, BoundedMean)
    assert (found.count, found.low, found.high) == (3, -1.0, 1.0)
    assert found.total == pytest.approx(0.1 - 0.1 + 1.0)
    assert found.squares == pytest.approx(0.01 + 0.01 + 1.0)


def test_nothing_logged_gives_empty_pairs(tmp_path: Path) -> None:
    assert _paired(tmp_path, SPEC) == PairedOutcomes(0, 0, 0)
    assert _paired(tmp_path, REGRESSION) == BoundedMean(0, 0.0, 0.0, -1.0, 1.0)
