"""A version in the repository is whole or not there: killed publishers, races and a full disk."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from platform_assets.resources.model_repository import (
    ModelRepository,
    RepositoryNotWritable,
    VersionConflict,
)
from tests.faults.publishing import MODEL, NAME, provenance
from tests.faults.scale import report, scale
from tests.support.gateway_harness import run_gateway
from tests.support.servers import ROOT, RunningTriton, wait_until

_PUBLISHERS = 8


def test_publisher_killed_at_every_step_leaves_nothing_or_all_and_another_finishes(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.publishing", str(tmp_path), str(scale(1, 20))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert seen["kills"] >= 8, "every operation on files is a step"
    assert (seen["partial"], seen["not made whole"]) == (0, 0)
    report("publishing", **seen)


@pytest.mark.parametrize("differs", [False, True], ids=["same", "other"])
def test_of_publishers_of_one_version_one_wins_and_none_mixes(
    tmp_path: Path, differs: bool
) -> None:
    repository = ModelRepository(root=str(tmp_path))
    contents = [MODEL[: len(MODEL) - number * differs] for number in range(_PUBLISHERS)]
    for version in range(1, scale(10, 200) + 1):
        begin, found = threading.Barrier(_PUBLISHERS), Counter[str]()

        def publish(onnx: bytes, version: int = version, begin: threading.Barrier = begin) -> str:
            begin.wait()
            try:
                return str(repository.package(onnx, provenance(version, onnx)))
            except VersionConflict:
                return "conflict"

        with ThreadPoolExecutor(_PUBLISHERS) as publishers:
            found.update(publishers.map(publish, contents))
        assert found == {"True": 1, ("conflict" if differs else "False"): _PUBLISHERS - 1}
        repository.verify(NAME, version)
    assert not [one for one in (tmp_path / NAME).iterdir() if not one.name.isdecimal()]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """Take all room that is left; removing the file frees it."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return filler


@pytest.mark.needs("root")
def test_full_disk_takes_no_part_of_a_version_and_a_rerun_converges(disk: Path) -> None:
    repository = ModelRepository(root=str(disk))
    assert repository.package(MODEL, provenance(1))
    repository.persist_config(NAME, "verified")
    large = MODEL * 4
    with pytest.raises(RepositoryNotWritable, match="No space left on device"):
        repository.package(large, provenance(2, large))
    filler = fill(disk)
    with pytest.raises(RepositoryNotWritable, match="No space left on device"):
        repository.package(MODEL, provenance(2))
    with pytest.raises(RepositoryNotWritable, match="No space left on device"):
        repository.persist_config(NAME, "another" * 1000)
    assert repository.versions(NAME) == (1,)
    assert {one.name for one in (disk / NAME).iterdir()} == {"1", "config.pbtxt"}
    repository.verify(NAME, 1)
    assert repository.persisted_config(NAME) == "verified"
    filler.unlink()
    assert repository.package(MODEL, provenance(2))
    repository.persist_config(NAME, "another")


@pytest.mark.needs("root")
def test_full_disk_refuses_changes_and_no_prediction(
    disk: Path, shared_triton: RunningTriton
) -> None:
    env = {
        "GATEWAY_SAMPLE_DIR": str(disk / "samples"),
        "GATEWAY_SAMPLE_FRACTION": "1",
        "GATEWAY_SAMPLE_SECONDS": "0.2",
    }
    with run_gateway(disk, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        filler = fill(disk)
        for _ in range(3):
            refused = gateway.reload(version=2, run_id="run-2")
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert "No space left on device" in refused.json()["error"]
            assert refused.json()["still_served"] == {"A": 1}
            assert gateway.predict().json()["version"] == 1
        left = [one.name for one in gateway.state_dir.iterdir() if one.name.endswith(".staged")]
        assert left == []
        filler.unlink()
        gateway.routed(2)
        assert gateway.predict().json()["version"] == 2
        written = disk / "samples"
        wait_until(lambda: bool([*written.rglob("*.parquet")]), 10, "predictions are kept again")
