"""The prediction log: which requests, how many wait, and what is in the files."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
import time
import tracemalloc
from asyncio import gather
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from serving_gateway.contract import (
    LOG_COLUMNS,
    LOG_SCHEMA,
    LOG_SCHEMA_KEY,
    DType,
    Feature,
    Signature,
    Strategy,
    Traffic,
    client_hash,
    log_day,
)
from serving_gateway.errors import InferenceRefused
from serving_gateway.inference.codec import Codec
from serving_gateway.inference.rows import VALUE_BYTES
from serving_gateway.inference.tensors import pack
from serving_gateway.settings import Settings
from serving_gateway.telemetry.log_columns import record_batches
from serving_gateway.telemetry.log_files import delete_oldest
from serving_gateway.telemetry.log_page import Answer, Places
from serving_gateway.telemetry.log_writer import LogWriter
from serving_gateway.telemetry.prediction_log import (
    Entry,
    LogQueue,
    ModelLog,
    PendingEntry,
    VariantLog,
)
from tests.support.fake_triton import FakeTritonPlane, Outcome
from tests.support.prediction_log import hostile_folder
from tests.support.servers import wait_until
from tests.support.waiting import eventually

KINDS = {"f": DType.FP32, "d": DType.FP64, "n": DType.INT64, "b": DType.BOOL, "t": DType.BYTES}
SIGNATURE = Signature(
    tuple(Feature(name, dtype, nullable=True) for name, dtype in KINDS.items()),
    packed_input=None,
    classes=("no", "yes"),
)
ROW = [2**24 + 1, 2.5, 3.0, True, "ä"]
EMPTY = [None, None, None, None, ""]
MANY = 2**30
KEY = b"0123456789abcdef"


def answer(
    labels: Sequence[Any],
    probabilities: Sequence[Sequence[float]] | None = None,
    kind: str = "BYTES",
    *,
    are_boolean: bool = False,
) -> tuple[bytes, Places]:
    """Triton's answer of these rows, and where the prediction is in it."""
    head, rows = b"{}", len(labels)
    label = pack(kind, labels)
    score, width = b"", 0
    if probabilities is not None:
        width = len(probabilities[0])
        score = pack("FP64", [*itertools.chain.from_iterable(probabilities)])
    ends = [*itertools.accumulate(map(len, (head, label, score)))]
    label_place = (kind, ends[0], ends[1], 1)
    score_place = ("FP64", ends[1], ends[2], width) if width else ("", 0, 0, 0)
    return head + label + score, (rows, are_boolean, label_place, score_place)


YES = answer(["yes"], [[0.25, 0.75]])


class Logging:
    """Everything from an entry to the files, in a folder of the test's own."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.queue = LogQueue(1024, MANY)
        self.model = ModelLog(self.queue, 1.0, "abc")
        limits = {
            "rows_per_file": 1000,
            "max_bytes": MANY,
            "queue_bytes": MANY,
            "max_days": 30,
            **options,
        }
        # Not validated: the least values are meant for production.
        settings = Settings.model_construct(**{f"sample_{k}": v for k, v in limits.items()})
        self.writer = LogWriter(self.queue, directory, "host/1-ab", settings, KEY)
        self.writer.start()

    def variant(self, signature: Signature = SIGNATURE, **what: Any) -> VariantLog:
        """A log of variant A, version 3, in generation 7."""
        return VariantLog(
            self.model,
            what.get("model_name", "m"),
            what.get("variant", "A"),
            what.get("version", 3),
            7,
            signature,
        )

    def put(self, *rows: Sequence[Any], **what: Any) -> None:
        """Log one request of one row, or of the given ones, in a log of its own."""
        log = self.variant(what.pop("signature", SIGNATURE), **what)
        log.put(*entry(log, *rows, **what))

    def files(self, model_name: str = "m") -> list[Path]:
        return sorted(self.directory.glob(f"{model_name}/*/*.parquet"))

    def table(self) -> pa.Table:
        """What all files of the model hold, once everything is written."""
        self.writer.close()
        self.writer._thread.join(60)  # `close` does not wait long for a busy machine
        return pa.concat_tables([pq.read_table(file, partitioning=None) for file in self.files()])


def entry(log: VariantLog, *rows: Sequence[Any], **what: Any) -> Entry:
    """What the request path keeps of a request of these rows, by default of one row."""
    rows = rows or (ROW,)
    at = what.get("at", time.perf_counter() - 0.001)
    entities = what.get("entities")
    values = len(rows) * len(log.signature.features)
    size = len(msgspec.json.encode(entities)) + VALUE_BYTES * values
    who = what.get("client_id"), entities, size
    answered = what.get("shared") or inference(log, rows, what.get("answered"))
    number, start = what.get("number", 17), what.get("start", 0)
    return number, len(rows), at, 0.001, *who, what.get("as_of"), answered, start


def inference(
    log: VariantLog, rows: Sequence[Sequence[Any]], answered: tuple[bytes, Places] | None = None
) -> Answer:
    """An inference of these rows, whoever sent them."""
    body, places = answered or (YES if len(rows) == 1 else answer(["yes"] * len(rows)))
    return Codec(log.signature).encode(rows), body, places


@pytest.fixture
def logging_(tmp_path: Path) -> Iterator[Logging]:
    one = Logging(tmp_path / "samples")
    yield one
    one.writer.close()


def test_share_of_logged_requests_holds_for_every_rhythm_of_clients() -> None:
    for fraction, every in itertools.product((0.01, 0.1, 0.5, 1.0), (1, 2, 5, 10)):
        log = ModelLog(LogQueue(1, 1), fraction, "abc")
        taken = sum(log.is_due() for number in range(10_000) if number % every == 0)
        assert taken == pytest.approx(fraction * 10_000 / every, abs=3)


def test_rows_beyond_the_limit_are_dropped_until_the_writer_has_released_some() -> None:
    queue = LogQueue(10, MANY)
    log = VariantLog(ModelLog(queue, 1.0, "abc"), "m", "A", 3, 7, SIGNATURE)
    for _ in range(4):
        log.put(*entry(log, ROW, ROW, ROW))
    queue.seal()
    assert log.model.dropped == 3
    assert [page.rows for _, page in queue.sealed] == [6, 3], "it begins at half of the limit"
    queue.sealed.clear()
    log.put(*entry(log, ROW, ROW))
    assert log.model.dropped == 5, "what the writer converts still counts"
    queue.release(9, 0)
    log.put(*entry(log, ROW, ROW))
    queue.seal()
    assert log.model.dropped == 5
    [(variant, page)] = queue.sealed
    assert (variant, page.rows, page.requests) == (log, 2, 1)


def test_mirrored_request_without_room_takes_none() -> None:
    queue = LogQueue(10, 20_000)
    log = VariantLog(ModelLog(queue, 1.0, "abc"), "m", "A", 3, 7, SIGNATURE)
    body, places = YES
    for size in (30_000, 10):
        pending = PendingEntry(log, entry(log, ROW))
        pending.write_with_answer(4, 0.25, ((), body + bytes(size), places), 0)
    for _ in range(60):  # these have no room for their rows
        pending = PendingEntry(log, entry(log, ROW, ROW, ROW, ROW, ROW, ROW, ROW, ROW, ROW, ROW))
        pending.write_with_failure(4, "busy")
    assert (log.model.dropped, queue.held_rows) == (601, 1)
    PendingEntry(log, entry(log, ROW)).write_with_failure(4, "busy")
    assert queue.held_rows == 2, "nothing is held for those that were dropped"


@pytest.mark.parametrize("shape", ["numbers", "text", "entities", "answers"])
def test_waiting_entries_are_bounded_in_bytes(shape: str) -> None:
    limit = 1_000_000
    width = 1 if shape == "text" else 30
    dtype = DType.BYTES if shape == "text" else DType.FP64
    signature = Signature(tuple(Feature(f"f{at}", dtype) for at in range(width)), None)
    number = itertools.count(10**6)
    log = VariantLog(ModelLog(LogQueue(10**6, limit), 1.0, "abc"), "m", "A", 3, 7, signature)
    body, places = answer([0.5] * 10, kind="FP64")
    tracemalloc.start()
    try:
        for _ in range(300):
            rows: list[list[Any]] = [[float(next(number)) for _ in range(width)] for _ in range(10)]
            if shape == "text":
                rows = [[f"ä{next(number):05000d}"] for _ in range(10)]
            ids = None
            if shape == "entities":
                ids = [(next(number), f"{next(number):0500d}") for _ in range(10)]
            answered = body + bytes(10_000), places
            client = f"{next(number):0250d}"
            log.put(*entry(log, *rows, answered=answered, entities=ids, client_id=client))
        del rows, ids, answered
        gc.collect()  # of the codecs
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.model.dropped > 0
    assert limit / 10 < held < limit


def test_file_holds_logical_values_by_name_and_the_answers(logging_: Logging) -> None:
    before = datetime.now(UTC)
    log = logging_.variant()
    body, places = answer(["yes", "no", "yes"], [[0.25, 0.75], [0.75, 0.25], [0.25, 0.75]])
    observed = time.time() - 60
    shared = inference(log, (ROW, EMPTY, ROW), (body, places))
    who: dict[str, Any] = {"entities": (17, "b"), "client_id": "ada", "as_of": observed}
    log.put(*entry(log, ROW, EMPTY, shared=shared, **who))
    log.put(*entry(log, ROW, shared=shared, start=2, number=18))
    logging_.put(ROW, variant="B", version=4, number=19)
    table = logging_.table()
    assert table.column_names == [*KINDS, *LOG_COLUMNS]
    assert [str(kind) for kind in table.schema.types] == [
        *("float", "double", "int64", "bool", "string"),
        *("string", "int32", "timestamp[us, tz=UTC]", "string", "string", "double"),
        *("int64", "string", "int64", "string", "double", "list<element: double>", "double"),
        *("int64", "string", "double", "list<element: double>", "double", "string"),
    ]
    found = table.to_pylist()
    assert [[one[name] for name in KINDS] for one in found] == [
        [2.0**24, 2.5, 3, True, "ä"],
        [None] * 5,
        *([2.0**24, 2.5, 3, True, "ä"],) * 2,
    ]
    own = [{name: one[f"sample_{name}"] for name in ("id", "row", "prediction")} for one in found]
    assert [(*one.values(),) for one in own] == [
        ("abc-17", 0, "yes"),
        ("abc-17", 1, "no"),
        ("abc-18", 0, "yes"),
        ("abc-19", 0, "yes"),
    ]
    assert [
        (one["sample_variant"], one["sample_version"], one["sample_generation"]) for one in found
    ] == [("A", 3, 7)] * 3 + [("B", 4, 7)]
    assert all(one["sample_score"] == 0.75 for one in found)
    assert [one["sample_probabilities"] for one in found[:2]] == [[0.25, 0.75], [0.75, 0.25]]
    assert [one["sample_entity"] for one in found] == ["17", "b", None, None]
    hashed = client_hash("ada", KEY)
    assert [one["sample_client"] for one in found] == [hashed, hashed, None, None]
    assert len(hashed) == 32
    assert [one["sample_feature_age"] is None for one in found] == [False, False, True, True]
    assert found[0]["sample_feature_age"] == pytest.approx(60, abs=5)
    assert all(before <= one["sample_time"] <= datetime.now(UTC) for one in found)
    assert all(one["sample_latency"] == 0.001 for one in found)
    assert all(one[name] is None for one in found for name in LOG_COLUMNS if "_b_" in name)
    days = {one["sample_time"].date() for one in found}
    assert {file.parent.name for file in logging_.files()} == {*map(log_day, days)}
    assert re.fullmatch(r"host_1_ab-00000\d\.parquet", logging_.files()[0].name)
    metadata = pq.read_schema(logging_.files()[0]).metadata
    assert metadata[LOG_SCHEMA_KEY.encode()] == str(LOG_SCHEMA).encode()
    assert logging_.model.written == 4


def test_mirrored_requests_have_the_answer_of_b_or_its_failure_next_to_that_of_a(
    logging_: Logging,
) -> None:
    log = logging_.variant()
    for number, what in enumerate(("answered", "failed", "answered", "not mirrored")):
        pending = PendingEntry(log, entry(log, ROW, ROW, number=number))
        if what == "answered":
            body, places = answer(["no"] * 3, [[0.5, 0.125]] * 3)
            pending.write_with_answer(4, 0.25, ((), body, places), 1)
        elif what == "failed":
            pending.write_with_failure(4, "x" * 1000)
        else:
            pending.write()
    found = sorted(logging_.table().to_pylist(), key=lambda row: row["sample_id"])
    columns = ("version", "prediction", "score", "probabilities", "latency")
    b = [[row[f"sample_b_{name}"] for name in columns] for row in found]
    answered = [4, "no", 0.5, [0.5, 0.125], 0.25]
    failed = [4, None, None, None, None]
    assert b == [answered] * 2 + [failed] * 2 + [answered] * 2 + [[None] * 5] * 2
    reasons = [row["sample_b_failure"] for row in found]
    assert reasons == [None] * 2 + ["x" * 200] * 2 + [None] * 4
    assert all(row["sample_prediction"] == "yes" for row in found)


def test_packed_rows_and_answers_of_shared_inferences_are_cut_as_they_were_asked(
    logging_: Logging,
) -> None:
    packed = Signature(tuple(Feature(f"f{at}", DType.FP32) for at in range(2)), "features")
    log = logging_.variant(packed)
    body, places = answer([10, 11, 12, 13, 14], kind="INT64")
    # Two of three requests of one inference are logged, then one alone.
    rows = [0, 1], [4, 4], [5, 5], [6, 7], [8, 9]
    shared = inference(log, rows, (body, places))
    log.put(*entry(log, rows[0], shared=shared, start=0))
    log.put(*entry(log, *rows[3:], shared=shared, start=3))
    log.put(*entry(log, [2, 3], answered=answer([20], kind="INT64")))
    found = logging_.table().to_pylist()
    assert [(row["f0"], row["f1"], row["sample_prediction"]) for row in found] == [
        *((0, 1, "10"), (6, 7, "13"), (8, 9, "14"), (2, 3, "20"))
    ]


def test_entities_of_several_keys_are_objects_in_the_order_of_the_keys(logging_: Logging) -> None:
    keyed = msgspec.structs.replace(SIGNATURE, join_keys=("customer", "shop"))
    entities = [(17, "Köln"), (17, None), (None, None), ("17", "Köln")]
    logging_.put(*[ROW] * 4, signature=keyed, entities=entities)
    logging_.put(ROW, ROW, entities=[17, None])
    assert logging_.table().column("sample_entity").to_pylist() == [
        '{"customer":17,"shop":"Köln"}',
        '{"customer":17}',
        None,
        '{"customer":"17","shop":"Köln"}',
        "17",
        None,
    ]


@pytest.mark.parametrize(
    ("given", "prediction", "score"),
    [
        (answer([1.5], kind="FP32"), "1.5", 1.5),
        (answer([7], kind="INT64"), "7", None),
        (answer([1], [[0.125, 0.5]], "INT64", are_boolean=True), "true", 0.5),
        (answer([True], [[0.125, 0.5]], "BOOL", are_boolean=True), "true", 0.5),
        (answer(["a"]), "a", None),
        ((b"{}", (1, False, ("", 0, 0, 0), ("", 0, 0, 0))), None, None),
    ],
)
def test_predicted_number_is_its_own_score(
    logging_: Logging, given: Any, prediction: str, score: float | None
) -> None:
    logging_.put(answered=given)
    [found] = logging_.table().to_pylist()
    assert (found["sample_prediction"], found["sample_score"]) == (prediction, score)


def test_answer_that_cannot_be_read_costs_its_own_row_alone(logging_: Logging) -> None:
    log = logging_.variant()
    broken = b"{}\xff\xff\xff\xff", (1, False, ("BYTES", 2, 6, 1), ("", 0, 0, 0))
    for number in range(9):
        log.put(*entry(log, number=number, answered=broken if number == 4 else YES))
    ids = logging_.table().column("sample_id").to_pylist()
    assert ids == [f"abc-{number}" for number in range(9) if number != 4]
    assert (logging_.model.failed, logging_.model.written) == (1, 8)


def test_rows_around_midnight_are_in_the_folders_of_their_days(logging_: Logging) -> None:
    log = logging_.variant()
    for days in (0, 1):
        at = time.perf_counter() - 86_400 * days
        log.put(*entry(log, number=days, at=at))
    assert logging_.table().num_rows == 2
    found = [
        (file.parent.name, pq.read_table(file, partitioning=None)) for file in logging_.files()
    ]
    assert len(found) == 2
    for name, table in found:
        assert name == log_day(table.column("sample_time")[0].as_py().date())


def test_file_is_written_when_it_is_full_or_old_enough(tmp_path: Path) -> None:
    full = Logging(tmp_path / "full", rows_per_file=2)
    for written in (2, 4):
        log = full.variant()
        for _ in range(2):
            log.put(*entry(log))
        full.queue.seal()
        wait_until(lambda written=written: full.model.written == written, 10, "a full file")  # type: ignore[misc]
    full.put()
    full.writer.close()
    assert [pq.read_metadata(file).num_rows for file in full.files()] == [2, 2, 1]
    old = Logging(tmp_path / "old", seconds=0.01)
    old.put()
    wait_until(lambda: len(old.files()) == 1, 10, "a file that is old enough")
    old.writer.close()
    assert len(old.files()) == 1


def test_open_page_is_left_to_the_writer_by_the_event_loop_alone(tmp_path: Path) -> None:
    one = Logging(tmp_path, seconds=0.01)
    asked: list[Any] = []
    one.queue.call_in_loop = asked.append
    one.put()
    wait_until(lambda: bool(asked), 10, "the writer's request")
    assert (one.queue.held_rows, len(one.queue.sealed), one.model.written) == (1, 0, 0)
    asked[0]()
    wait_until(lambda: one.model.written == 1, 10, "a file")
    one.writer.close()


def test_each_model_and_set_of_features_has_its_own_files(logging_: Logging) -> None:
    fewer = Signature(SIGNATURE.features[:1], packed_input="f")
    logging_.put()
    logging_.put([2.0], signature=fewer)
    logging_.put(model_name="other")
    logging_.writer.close()
    widths = [len(pq.read_schema(file).names) - len(LOG_COLUMNS) for file in logging_.files()]
    assert sorted(widths) == [1, 5]
    assert len(logging_.files("other")) == 1


def test_unwritable_disk_is_logged_once_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    blocked = tmp_path / "samples"
    blocked.write_text("a file where the directory should be")
    one = Logging(blocked, seconds=0.01)
    for lost in range(1, 4):
        one.put()
        wait_until(lambda lost=lost: one.model.failed == lost, 10, "a failure")  # type: ignore[misc]
    blocked.unlink()
    one.put()
    wait_until(lambda: one.model.written == 1, 10, "a file")
    one.writer.close()
    said = [each.getMessage() for each in caplog.records if each.name.endswith("log_writer")]
    assert [line.partition(":")[0] for line in said] == [
        "rows of the prediction log are lost",
        "the prediction log is written again",
    ]


def test_feature_with_the_name_of_an_own_column_is_rejected(
    logging_: Logging, caplog: pytest.LogCaptureFixture
) -> None:
    clash = Signature((Feature("sample_time", DType.FP32),), packed_input="f")
    logging_.put([2.0], signature=clash)
    logging_.put()
    assert logging_.table().num_rows == 1
    assert (logging_.model.failed, logging_.model.written) == (1, 1)
    assert "a feature cannot be called sample_time" in caplog.records[0].__dict__["reason"]


def test_oldest_files_are_deleted_by_size_and_by_day(tmp_path: Path) -> None:
    now, today = time.time(), datetime.now(UTC).date()

    def write(folder: str, age: int) -> Path:
        path = tmp_path / folder / f"{age}.parquet"
        for one in (path, path.with_name(f".{path.name}.staged")):
            one.parent.mkdir(exist_ok=True)
            one.write_bytes(bytes(100))
            os.utime(one, (now - 1000 * age, now - 1000 * age))
        return path

    flat = write(".", 5)
    by_day = [write(log_day(today - timedelta(days=age)), age) for age in range(5)]
    outcomes = write("outcomes", 6)
    delete_oldest(tmp_path, 1000, today - timedelta(days=3), keep=by_day[0])
    assert [path.exists() for path in (flat, *by_day)] == [True] * 5 + [False]
    assert outcomes.exists(), "not the log's"
    delete_oldest(tmp_path, 250, date.min, keep=by_day[2])
    assert [path.exists() for path in (flat, *by_day[:4])] == [False, True, False, True, False]
    staged = {path.name for path in tmp_path.glob("*/.*.staged")}
    assert staged == {".0.parquet.staged", ".1.parquet.staged", ".2.parquet.staged"} | {
        ".3.parquet.staged",
        ".6.parquet.staged",
    }
    delete_oldest(tmp_path, 10, date.min, keep=by_day[0])
    assert [path.name for path in tmp_path.glob("date=*/[0-9]*")] == ["0.parquet"]
    assert not (tmp_path / log_day(today - timedelta(days=4))).exists(), "it is empty"


def test_bound_of_the_folder_holds_after_each_file(tmp_path: Path) -> None:
    one = Logging(tmp_path, rows_per_file=1, max_bytes=1)
    for _ in range(3):
        one.put()
    one.writer.close()
    assert [file.name[-14:] for file in one.files()] == ["000003.parquet"]


def test_bound_holds_beside_what_is_no_file_of_the_log(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "other.parquet"
    other.parent.mkdir()
    other.write_text("another program's")
    one = Logging(tmp_path / "log", rows_per_file=1, max_bytes=1)
    hostile_folder(tmp_path / "log" / "m", other.parent)
    for _ in range(3):
        one.put()
    one.writer.close()
    assert [path.name[-14:] for path in one.files() if path.name.startswith("host")] == [
        "000003.parquet"
    ]
    assert other.exists()


def test_buffers_of_many_models_are_bounded_in_bytes(tmp_path: Path) -> None:
    one = Logging(tmp_path, queue_bytes=5_000)
    for number in range(100):
        one.put(model_name=f"m{number % 10}")
    one.queue.seal()
    wait_until(lambda: one.model.written > 0, 10, "a file that is early")
    one.writer.close()
    # Its end is waited for two seconds; on a busy machine it goes on.
    wait_until(lambda: one.model.written == 100, 30, "all rows to be written")


def test_logging_without_pyarrow_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="install the extra 'samples'"):
        Settings(sample_dir=tmp_path)
    assert Settings().sample_dir is None
    monkeypatch.setitem(__import__("sys").modules, "serving_gateway.telemetry.log_columns", None)
    with pytest.raises(RuntimeError, match="cannot be imported"):
        Logging(tmp_path)


async def test_requests_that_share_an_inference_are_logged_with_their_own_features(
    tmp_path: Path,
) -> None:
    with FakeTritonPlane(tmp_path) as plane:
        queue = LogQueue(1024, MANY)
        plane.dispatcher.log = ModelLog(queue, 0.5, plane.dispatcher.ids.prefix)
        plane.route(A=1)
        bodies = [b'{"data": [[%d, 0], [%d, 1]]}' % (at, at) for at in range(40)]
        answers = [msgspec.json.decode(one) for one in await gather(*map(plane.predict, bodies))]
        queue.seal()
        [(log, page)] = queue.sealed
        [(_, batch)] = record_batches(log, page.whole(), 0.0, lambda client: client)
    assert len(page.answers) < page.requests, "some shared an inference"
    sent = {one["prediction_id"]: (at, one["predictions"]) for at, one in enumerate(answers)}
    found = batch.to_pylist()
    assert len(found) == 40
    for row in found:
        at, predictions = sent[row["sample_id"]]
        place = row["sample_row"]
        assert (row["a"], row["b"], row["sample_prediction"]) == (
            at,
            place,
            str(predictions[place]),
        )


async def test_answers_have_ids_and_leave_what_the_log_needs(tmp_path: Path) -> None:
    with FakeTritonPlane(tmp_path) as plane:
        queue = LogQueue(1024, MANY)
        ids = plane.dispatcher.ids
        plane.dispatcher.log = model = ModelLog(queue, 1.0, ids.prefix)
        plane.route(Traffic(Strategy.MIRROR, 100.0), A=1, B=2)
        plane.triton.errors[2] = InferenceRefused("not today")
        body = b'{"data": [[1, 2], [3, null]], "client_id": "ada"}'
        failed = msgspec.json.decode(await plane.predict(body))
        del plane.triton.errors[2]
        answered = msgspec.json.decode(await plane.predict(body))
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [5, 6]}
        inference = plane.infer(msgspec.json.encode({"inputs": [tensor]}))
        await inference
        of_platform = Outcome()
        of_platform.is_traffic = False
        plane.predictor.submit(body, of_platform)
        assert b'"prediction_id":"' in await of_platform
        await eventually(lambda: queue.held_rows == 5)
        queue.seal()
        pages = sorted(queue.sealed, key=lambda one: one[1].rows, reverse=True)
        given = [failed["prediction_id"], answered["prediction_id"], inference.prediction_id]
        assert [re.fullmatch(rf"{ids.prefix}-\d+", one) is not None for one in given] == [True] * 3
        assert len({*given, msgspec.json.decode(of_platform.ended.result())["prediction_id"]}) == 4
        batches = [
            batch.to_pylist()
            for log, page in pages
            for _, batch in record_batches(log, page.whole(), 0.0, lambda client: client)
        ]
    mirrored, alone = batches
    rows = [(row["sample_id"], row["sample_row"], row["a"], row["b"]) for row in mirrored + alone]
    assert rows == [
        *((given[0], 0, 1, 2), (given[0], 1, 3, None)),
        *((given[1], 0, 1, 2), (given[1], 1, 3, None)),
        (given[2], 0, 5, 6),
    ]
    assert [row["sample_client"] for row in mirrored + alone] == ["ada"] * 4 + [None]
    assert [row["sample_prediction"] for row in mirrored[2:]] == [
        *map(str, answered["predictions"])
    ]
    assert all(row["sample_b_failure"].endswith("not today") for row in mirrored[:2])
    versions = {row["sample_b_version"] for row in mirrored}
    assert versions == {2}
    assert all(row["sample_b_prediction"] is not None for row in mirrored[2:])
    assert model.dropped == 0
