"""Erasing an entity or a client from the prediction log."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_assets.prediction_log.__main__ import _parser, main
from platform_assets.prediction_log.erasure import erase
from platform_assets.prediction_log.subjects import entity_subject
from serving_gateway.contract import (
    LOG_CLIENT,
    LOG_ENTITY,
    LOG_ID,
    LOG_KEY_FILE,
    LOG_ROW,
    LOG_SCHEMA,
    LOG_SCHEMA_KEY,
    OUTCOME_ID,
    OUTCOME_ROW,
    OUTCOMES_FOLDER,
    UNREADABLE_SUFFIX,
    client_hash,
    log_day,
)
from tests.support.servers import ROOT

KEY = "0123456789abcdef"
DAY = log_day(datetime(2026, 3, 1, tzinfo=UTC).date())


def write(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def read(path: Path, column: str) -> list[Any]:
    found: list[Any] = pq.read_table(path, partitioning=None)[column].to_pylist()
    return found


class Place:
    """A log with rows of the entities 17 and 18, by the clients ada and bob."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "samples" / "cars"
        hashes = [client_hash(one, KEY.encode()) for one in ("ada", "bob")]
        rows = {
            LOG_ID: ["p-1", "p-1", "p-2", "p-3"],
            LOG_ROW: pa.array([0, 1, 0, 0], pa.int32()),
            LOG_ENTITY: ["17", "18", "17", None],
            LOG_CLIENT: [hashes[0], hashes[0], hashes[1], None],
        }
        self.log = write(self.folder / DAY / "a-1.parquet", rows, {LOG_SCHEMA_KEY: str(LOG_SCHEMA)})
        self.alone = write(
            self.folder / DAY / "a-2.parquet", {LOG_ID: ["p-4"], LOG_ROW: [0], LOG_ENTITY: ["17"]}
        )
        self.flat = write(self.folder / "old.parquet", {LOG_ENTITY: ["17", "19"], "x": [1, 2]})
        self.others = write(self.folder / "older.parquet", {"x": [1, 2]})
        outcomes = {
            OUTCOME_ID: ["p-1", "p-1", "p-2", "p-9", "p-4"],
            OUTCOME_ROW: pa.array([0, 1, 0, 0, 0], pa.int32()),
        }
        self.outcomes = write(self.folder / OUTCOMES_FOLDER / DAY / "a-1.parquet", outcomes)
        self.source = write(
            self.folder / OUTCOMES_FOLDER / "source.parquet", {"entity": ["17", "18"]}
        )
        key = home / "gateway" / LOG_KEY_FILE
        key.parent.mkdir()
        key.write_text(KEY + "\n")

    def erase(self, *arguments: str) -> int:
        folders = "--log", str(self.home / "samples")
        key = "--key-file", str(self.home / "gateway" / LOG_KEY_FILE)
        return main(["erase", "cars", *arguments, *folders, *key])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("GATEWAY_SAMPLE_KEY", raising=False)
    return Place(tmp_path)


def test_entity_is_erased_with_its_outcomes_and_nothing_else_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    os.utime(place.log, ns=(10**18, 10**18))
    assert place.erase("17") == 0
    assert "4 predicted rows and 4 outcomes, in 5 files" in capsys.readouterr().out
    assert read(place.log, LOG_ID) == ["p-1", "p-3"]
    assert read(place.log, LOG_ENTITY) == ["18", None]
    assert not place.alone.exists(), "nothing is left in it"
    assert read(place.flat, LOG_ENTITY) == ["19"]
    assert read(place.others, "x") == [1, 2]
    outcomes = [
        *zip(read(place.outcomes, OUTCOME_ID), read(place.outcomes, OUTCOME_ROW), strict=True)
    ]
    assert outcomes == [("p-1", 1), ("p-9", 0)]
    assert read(place.source, "entity") == ["18"]
    assert place.log.stat().st_mtime_ns == 10**18, "the order of deletion stays"
    assert pq.read_schema(place.log).metadata[LOG_SCHEMA_KEY.encode()] == b"1"
    left = {path: path.read_bytes() for path in place.folder.rglob("*.parquet")}
    assert place.erase("17") == 0
    assert "0 predicted rows and 0 outcomes, in 0 files" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in place.folder.rglob("*.parquet")} == left


def test_client_is_erased_by_the_hash_of_its_id(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.erase("--client", "ada") == 0
    assert "2 predicted rows and 2 outcomes" in capsys.readouterr().out
    assert read(place.log, LOG_ID) == ["p-2", "p-3"]
    monkeypatch.setenv("GATEWAY_SAMPLE_KEY", "another-key-of-16")
    assert place.erase("--client", "bob") == 0
    assert read(place.log, LOG_ID) == ["p-2", "p-3"], "not by the key of other gateways"


def test_entities_of_several_keys_are_erased_by_one_of_them(place: Place) -> None:
    texts = ['{"customer":17,"shop":"a=b"}', '{"customer":18,"shop":"17"}', "customer=17", "{"]
    path = write(
        place.folder / DAY / "b.parquet", {LOG_ID: [*"wxyz"], LOG_ROW: [0] * 4, LOG_ENTITY: texts}
    )
    assert place.erase("shop=17") == 0
    assert read(path, LOG_ID) == ["w", "y", "z"]
    assert place.erase("customer=17") == 0
    assert read(path, LOG_ID) == ["z"], "an id of one key may look so too"


def test_erasure_that_cannot_be_complete_is_refused_or_says_what_is_left(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.erase() == 1
    assert place.erase("17", "--client", "ada") == 1
    key = place.home / "gateway" / LOG_KEY_FILE
    key.write_text("\n")
    assert place.erase("--client", "ada") == 1
    key.unlink()
    assert place.erase("--client", "ada") == 1
    assert main(["erase", "car", "17", "--log", str(place.home / "samples")]) == 1
    said = capsys.readouterr().err
    assert f"{key} holds no key" in said
    assert "no prediction log at" in said
    assert said.count("nothing was erased") == 5
    assert len(read(place.log, LOG_ID)) == 4
    torn = place.folder / DAY / "torn.parquet"
    torn.write_bytes(b"PAR1 torn")
    assert place.erase("17") == 1
    assert f"{torn} cannot be read and was left as it is" in capsys.readouterr().err
    assert read(place.log, LOG_ID) == ["p-1", "p-3"], "the others were erased all the same"


def test_files_that_were_set_aside_are_erased_too(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = place.log.rename(place.log.with_name(place.log.name + UNREADABLE_SUFFIX))
    outcomes = place.outcomes.rename(
        place.outcomes.with_name(place.outcomes.name + UNREADABLE_SUFFIX)
    )
    assert place.erase("17") == 0
    assert "4 predicted rows and 4 outcomes" in capsys.readouterr().out
    assert read(aside, LOG_ID) == ["p-1", "p-3"]
    assert read(outcomes, OUTCOME_ID) == ["p-1", "p-9"]
    aside.write_bytes(b"PAR1 torn")
    assert place.erase("17") == 1
    assert f"{aside} cannot be read and was left as it is" in capsys.readouterr().err


def test_erasure_leaves_and_names_files_that_only_look_like_the_log(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = {LOG_ID: [1], LOG_ROW: ["x"], LOG_ENTITY: [17]}
    write(place.folder / DAY / "numbers.parquet", numbers)
    nested = write(place.folder / DAY / "nested.parquet", {LOG_ENTITY: [[17]]})
    partly = write(place.folder / OUTCOMES_FOLDER / DAY / "partly.parquet", {OUTCOME_ID: ["p-1"]})
    assert place.erase("17") == 1
    said = capsys.readouterr().err
    assert f"{nested} cannot be read and was left as it is" in said
    assert f"{partly} cannot be read and was left as it is" in said
    assert read(place.log, LOG_ID) == ["p-1", "p-3"], "the others were erased all the same"
    assert not (place.folder / DAY / "numbers.parquet").exists(), "its only row was of the entity"


def test_interrupted_erasure_is_finished_by_the_next_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.utime, itertools.count(1)

    def fill_disk(*arguments: Any, **options: Any) -> None:
        if next(calls) > 3:
            raise OSError("the disk is full")
        real(*arguments, **options)

    before = place.log.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr("os.utime", fill_disk)
        assert place.erase("17") == 1
    assert place.log.read_bytes() == before, "the ids of its outcomes are still known"
    assert place.erase("17") == 0
    assert read(place.outcomes, OUTCOME_ID) == ["p-1", "p-9"]
    assert read(place.log, LOG_ID) == ["p-1", "p-3"]


def test_files_that_are_written_or_deleted_meanwhile_are_neither_lost_nor_missed(
    place: Place,
) -> None:
    ended = threading.Event()
    written: list[Path] = []

    def gateway() -> None:
        while not ended.is_set() and len(written) < 60:
            number = len(written)
            rows = {
                LOG_ID: [f"q-{number}", f"r-{number}"],
                LOG_ROW: [0, 0],
                LOG_ENTITY: ["18", "17"],
            }
            staged = write(place.folder / DAY / f".w-{number}.parquet.staged", rows)
            written.append(staged.replace(place.folder / DAY / f"w-{number}.parquet"))
            if number % 5 == 4:
                written[number - 4].unlink()

    thread = threading.Thread(target=gateway)
    thread.start()
    try:
        for _ in range(3):
            assert place.erase("19") == 0
    finally:
        ended.set()
        thread.join()
    assert place.erase("17") == 0
    left = [path for number, path in enumerate(written) if number % 5 or number + 4 >= len(written)]
    assert all(read(path, LOG_ENTITY) == ["18"] for path in left)


def test_log_that_is_not_there_stays_so(tmp_path: Path) -> None:
    found = erase(tmp_path / "none", entity_subject("17"))
    assert (found.rows, found.outcomes) == (0, 0)
    assert [*tmp_path.iterdir()] == []


def test_make_passes_ids_as_they_were_typed() -> None:
    typed = """a$b"c'$(d) #e\\ *"""
    command = ["make", "-s", "-o", ".venv/.run", "erase", r"RUN=printf '<%s>\n'"]
    model = '<m"$(n)>'
    for name, end in (
        ("ENTITY", ["<-->", model, f"<{typed}>"]),
        ("CLIENT", [f"<--client={typed}>", "<-->", model]),
    ):
        arguments = [*command, 'MODEL=m"$(n)', f"{name}={typed}"]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-3:] == end
    assert _parser().parse_args(["erase", "--", "m", "-NxYz"]).entity == "-NxYz"
