"""Samples of answered requests: which, how many wait, and what lies in the files."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.rows import RequestRows
from serving_gateway.settings import Settings
from serving_gateway.telemetry.sample_files import OWN_COLUMNS, SampleWriter, delete_oldest
from serving_gateway.telemetry.samples import ModelSamples, Sample, SampleQueue
from tests.support.servers import wait_until

KINDS = {"f": DType.FP32, "d": DType.FP64, "n": DType.INT64, "b": DType.BOOL, "t": DType.BYTES}
SIGNATURE = Signature(
    tuple(Feature(name, dtype, nullable=True) for name, dtype in KINDS.items()),
    packed_input=None,
    classes=("no", "yes"),
)
ROW = [2**24 + 1, 2.5, 3.0, True, "ä"]
EMPTY = [None, None, None, None, ""]
MANY = 2**30


def rows(*data: list[Any]) -> RequestRows:
    return RequestRows((), len(data), data=[*data])


def answers(*labels: Any) -> ModelOutput:
    return ModelOutput([*labels], [[0.25, 0.75]] * len(labels))


def offer(samples: ModelSamples, data: RequestRows | None = None, **what: Any) -> None:
    """Offer one row, or the given ones, with an answer to each."""
    data = data or rows(ROW)
    answered = what.pop("answers", answers(*["yes"] * data.count))
    given = {
        "model_name": "m",
        "variant": "A",
        "version": 3,
        "signature": SIGNATURE,
        "data": data.data,
        "instances": data.instances,
        "predictions": answered.predictions,
        "probabilities": answered.probabilities,
        **what,
    }
    if samples.is_due():
        samples.offer(Sample(time.time_ns() // 1000, **given))


def drained(queue: SampleQueue) -> list[Sample]:
    """Take out and release what waits, as the writer does."""
    taken = []
    for _, sample, size in queue.drain():
        taken.append(sample)
        queue.release(len(sample.predictions), size)
    return taken


class Sampling:
    """Everything from an offer to the files, in a folder of the test's own."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.queue = SampleQueue(1024, MANY)
        self.samples = ModelSamples(self.queue, 1.0)
        limits = {"rows_per_file": 1000, "max_bytes": MANY, "queue_bytes": MANY, **options}
        # Not validated: the least values are meant for production.
        settings = Settings.model_construct(**{f"sample_{k}": v for k, v in limits.items()})
        self.writer = SampleWriter(self.queue, directory, "host/1-ab", settings)
        self.writer.start()

    def files(self, model_name: str = "m") -> list[Path]:
        return sorted(self.directory.glob(f"{model_name}/*.parquet"))

    def table(self) -> pa.Table:
        """What all files of the model hold, once everything is written."""
        self.writer.close()
        self.writer._thread.join(60)  # `close` does not wait long for a busy machine
        return pa.concat_tables([pq.read_table(file, partitioning=None) for file in self.files()])


@pytest.fixture
def sampling(tmp_path: Path) -> Iterator[Sampling]:
    one = Sampling(tmp_path / "samples")
    yield one
    one.writer.close()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("every", [1, 2, 5, 10])
def test_share_of_samples_holds_for_every_rhythm_of_clients(fraction: float, every: int) -> None:
    queue = SampleQueue(10**6, MANY)
    mine, others = ModelSamples(queue, fraction), ModelSamples(queue, fraction)
    taken = 0
    for number in range(10_000):
        offer(mine)
        took = len(drained(queue))
        taken += took if number % every == 0 else 0
        offer(others)
        assert len(drained(queue)) == took, "the same each time"
    assert taken == pytest.approx(fraction * 10_000 / every, abs=3)


def test_samples_beyond_the_row_limit_are_dropped_and_counted() -> None:
    queue = SampleQueue(10, MANY)
    samples = ModelSamples(queue, 1.0)
    for _ in range(4):
        offer(samples, rows(ROW, ROW, ROW))
    assert samples.dropped == 3
    assert [len(sample.predictions) for sample in drained(queue)] == [3, 3, 3]
    offer(samples)
    assert samples.dropped == 3, "there is room again"


def test_rows_that_the_writer_converts_count_until_they_are_released() -> None:
    queue = SampleQueue(10, MANY)
    samples = ModelSamples(queue, 1.0)
    offer(samples, rows(*[ROW] * 10))
    [(_, _, size)] = queue.drain()
    offer(samples)
    assert samples.dropped == 1
    queue.release(10, size)
    offer(samples)
    assert samples.dropped == 1


@pytest.mark.parametrize("shape", ["data", "instances", "text", "entities"])
def test_samples_are_bounded_in_bytes(shape: str) -> None:
    limit = 1_000_000
    width = 1 if shape == "text" else 30
    dtype = DType.BYTES if shape == "text" else DType.FP64
    names = [f"f{at}" for at in range(width)]
    signature = Signature(tuple(Feature(name, dtype) for name in names), None)
    number = itertools.count(10**6)

    def row() -> list[Any]:
        return (
            [f"ä{next(number):05000d}"] if shape == "text" else [float(next(number)) for _ in names]
        )

    samples = ModelSamples(SampleQueue(10**6, limit), 1.0)
    tracemalloc.start()
    try:
        for _ in range(100):
            listed = [row() for _ in range(10)]
            given = rows(*listed)
            if shape == "instances":
                given = RequestRows(
                    (), 10, instances=[dict(zip(names, one, strict=True)) for one in listed]
                )
            ids = [(next(number), f"ä{next(number):05000d}") for _ in range(10)]
            offer(
                samples,
                given,
                signature=signature,
                answers=ModelOutput([0.5] * 10, None),
                entities=ids if shape == "entities" else None,
            )
        del listed, given, ids
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert samples.dropped > 0
    assert limit / 10 < held < limit


def test_file_holds_logical_values_by_name_and_the_answers(sampling: Sampling) -> None:
    before = datetime.now(UTC)
    offer(sampling.samples, rows(ROW, EMPTY), answers=answers("yes", "no"), entities=(17, "b"))
    named = dict(zip(KINDS, ROW, strict=True))
    offer(
        sampling.samples,
        RequestRows((), 1, instances=[dict(reversed(named.items()))]),
        variant="B",
        version=4,
    )
    table = sampling.table()
    assert table.column_names == [*KINDS, *OWN_COLUMNS]
    assert [str(kind) for kind in table.schema.types] == [
        *("float", "double", "int64", "bool", "string"),
        *("timestamp[us, tz=UTC]", "int64", "string", "string", "double", "string"),
    ]
    found = table.to_pylist()
    assert [[one[name] for name in KINDS] for one in found] == [
        [2.0**24, 2.5, 3, True, "ä"],
        [None] * 5,
        [2.0**24, 2.5, 3, True, "ä"],
    ]
    assert [one["sample_prediction"] for one in found] == ["yes", "no", "yes"]
    assert [(one["sample_variant"], one["sample_version"]) for one in found] == [
        *(("A", 3), ("A", 3), ("B", 4))
    ]
    assert all(one["sample_score"] == 0.75 for one in found)
    assert [one["sample_entity"] for one in found] == ["17", "b", None]
    assert all(before <= one["sample_time"] <= datetime.now(UTC) for one in found)
    (file,) = sampling.files()
    day = before.date().isoformat()
    assert re.fullmatch(rf"{day}-host_1_ab-000001\.parquet", file.name)
    assert [*file.parent.iterdir()] == [file]
    assert sampling.samples.written == 3


def test_entities_of_several_keys_are_objects_in_the_order_of_the_keys(
    sampling: Sampling,
) -> None:
    keyed = msgspec.structs.replace(SIGNATURE, join_keys=("customer", "shop"))
    entities = [(17, "Köln"), (17, None), (None, None), ("17", "Köln")]
    offer(sampling.samples, rows(*[ROW] * 4), signature=keyed, entities=entities)
    offer(sampling.samples, rows(ROW, ROW), entities=[17, None])
    assert sampling.table().column("sample_entity").to_pylist() == [
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
        (ModelOutput([1.5], None), "1.5", 1.5),
        (ModelOutput([7], None), "7", None),
        (ModelOutput([True], [[0.1, 0.9]]), "True", 0.9),
        (ModelOutput(["a"], None), "a", None),
    ],
)
def test_predicted_number_is_its_own_score(
    sampling: Sampling, given: ModelOutput, prediction: str, score: float | None
) -> None:
    offer(sampling.samples, answers=given)
    [found] = sampling.table().to_pylist()
    assert (found["sample_prediction"], found["sample_score"]) == (prediction, score)


def test_file_is_written_when_it_is_full_or_old_enough(tmp_path: Path) -> None:
    full = Sampling(tmp_path / "full", rows_per_file=2)
    for _ in range(5):
        offer(full.samples)
    wait_until(lambda: len(full.files()) == 2, 10, "full files")
    assert full.samples.written == 4
    full.writer.close()
    assert [pq.read_metadata(file).num_rows for file in full.files()] == [2, 2, 1]
    old = Sampling(tmp_path / "old", seconds=0.01)
    offer(old.samples)
    wait_until(lambda: len(old.files()) == 1, 10, "a file that is old enough")
    old.writer.close()
    assert len(old.files()) == 1


def test_each_model_and_set_of_features_has_its_own_files(sampling: Sampling) -> None:
    fewer = Signature(SIGNATURE.features[:1], packed_input="f")
    offer(sampling.samples)
    offer(sampling.samples, rows([2.0]), signature=fewer)
    offer(sampling.samples, model_name="other")
    sampling.writer.close()
    widths = [len(pq.read_schema(file).names) - len(OWN_COLUMNS) for file in sampling.files()]
    assert sorted(widths) == [1, 5]
    assert len(sampling.files("other")) == 1


def test_unwritable_disk_is_logged_once_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    blocked = tmp_path / "samples"
    blocked.write_text("a file where the directory should be")
    sampling = Sampling(blocked, seconds=0.01)
    for lost in range(1, 4):
        offer(sampling.samples)
        wait_until(lambda lost=lost: sampling.samples.failed == lost, 10, "a failure")  # type: ignore[misc]
    blocked.unlink()
    offer(sampling.samples)
    wait_until(lambda: sampling.samples.written == 1, 10, "a file")
    sampling.writer.close()
    said = [one.getMessage() for one in caplog.records if one.name.endswith("sample_files")]
    assert [line.partition(":")[0] for line in said] == [
        "samples are lost",
        "samples are written again",
    ]


def test_feature_with_the_name_of_an_own_column_is_rejected(
    sampling: Sampling, caplog: pytest.LogCaptureFixture
) -> None:
    clash = Signature((Feature("sample_time", DType.FP32),), packed_input="f")
    offer(sampling.samples, rows([2.0]), signature=clash)
    offer(sampling.samples)
    assert sampling.table().num_rows == 1
    assert (sampling.samples.failed, sampling.samples.written) == (1, 1)
    assert "a feature cannot be called sample_time" in caplog.records[0].__dict__["reason"]


def test_oldest_files_are_deleted(tmp_path: Path) -> None:
    now = time.time()
    for age in range(5):
        for name in (f"{age}.parquet", f".{age}.parquet.staged"):
            (tmp_path / name).write_bytes(bytes(100))
            os.utime(tmp_path / name, (now - 1000 * age, now - 1000 * age))
    delete_oldest(tmp_path, 250, keep="4.parquet")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        *("0.parquet", "4.parquet"),
        *(f".{age}.parquet.staged" for age in range(4)),
    }
    delete_oldest(tmp_path, 10, keep="4.parquet")
    assert [path.name for path in tmp_path.glob("[0-9]*")] == ["4.parquet"]


def test_bound_of_the_folder_holds_after_each_file(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path, rows_per_file=1, max_bytes=1)
    for _ in range(3):
        offer(sampling.samples)
    sampling.writer.close()
    assert [file.name[-14:] for file in sampling.files()] == ["000003.parquet"]


def test_buffers_of_many_models_are_bounded_in_bytes(tmp_path: Path) -> None:
    sampling = Sampling(tmp_path, queue_bytes=5_000)
    for number in range(100):
        offer(sampling.samples, model_name=f"m{number % 10}")
    wait_until(lambda: sampling.samples.written > 0, 10, "a file that is early")
    sampling.writer.close()
    assert sampling.samples.written == 100


def test_sampling_without_pyarrow_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match="install the extra 'samples'"):
        Settings(sample_dir=tmp_path)
    assert Settings().sample_dir is None
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(RuntimeError, match="cannot be imported"):
        Sampling(tmp_path)
