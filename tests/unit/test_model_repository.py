"""The one writer of Triton's repository: whole versions, once."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from platform_assets.export.inspection import sha256
from platform_assets.resources import atomic_files
from platform_assets.resources.model_repository import (
    DigestMismatch,
    ModelRepository,
    Provenance,
    RepositoryError,
    RepositoryNotWritable,
    VersionConflict,
)

MODEL = b"not really a graph"


def provenance(onnx: bytes = MODEL, *, version: int = 3, run_id: str = "run") -> Provenance:
    return Provenance(
        model_name="best_model",
        version=version,
        run_id=run_id,
        onnx_sha256=sha256(onnx),
        data_fingerprint="f",
        packaged_by="dagster",
    )


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(root=str(tmp_path))


def test_a_version_is_written_whole(repository: ModelRepository) -> None:
    assert repository.package(MODEL, provenance())
    folder = repository.path("best_model", 3)
    assert (folder / "model.onnx").read_bytes() == MODEL
    assert repository.verify("best_model", 3) == provenance()


def test_nothing_is_left_beside_it(repository: ModelRepository) -> None:
    repository.package(MODEL, provenance())
    repository.persist_config("best_model", "x")
    names = {entry.name for entry in repository.path("best_model", 3).parent.iterdir()}
    assert names == {"3", "config.pbtxt"}


def test_packaging_the_same_again_changes_nothing(repository: ModelRepository) -> None:
    repository.package(MODEL, provenance())
    before = (repository.path("best_model", 3) / "model.onnx").stat().st_mtime_ns
    assert not repository.package(MODEL, provenance())
    assert (repository.path("best_model", 3) / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("other", [provenance(b"other"), provenance(run_id="another")])
def test_a_version_that_holds_something_else_is_refused_and_kept(
    repository: ModelRepository, other: Provenance
) -> None:
    repository.package(MODEL, provenance())
    onnx = b"other" if other.onnx_sha256 != sha256(MODEL) else MODEL
    with pytest.raises(VersionConflict, match="still served"):
        repository.package(onnx, other)
    assert repository.verify("best_model", 3) == provenance()


def test_bytes_that_are_not_those_recorded_are_not_packaged(repository: ModelRepository) -> None:
    with pytest.raises(RepositoryError, match="the registry recorded"):
        repository.package(b"tampered", provenance())
    assert not repository.path("best_model", 3).exists()


def test_truncation_after_packaging_is_found(repository: ModelRepository) -> None:
    repository.package(MODEL, provenance())
    (repository.path("best_model", 3) / "model.onnx").write_bytes(MODEL[:-1])
    with pytest.raises(DigestMismatch, match="changed or truncated"):
        repository.verify("best_model", 3)
    assert list(repository.broken("best_model", [3])) == [3]


@pytest.mark.parametrize("missing", ["model.onnx", "provenance.json"])
def test_half_a_version_is_not_a_version(repository: ModelRepository, missing: str) -> None:
    repository.package(MODEL, provenance())
    (repository.path("best_model", 3) / missing).unlink()
    with pytest.raises(RepositoryError, match="not a whole version"):
        repository.verify("best_model", 3)


def test_a_publisher_that_dies_while_writing_leaves_no_version(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[str] = []

    def die(path: Path) -> None:
        staged.append(path.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files, "fsync_directory", die)
    with pytest.raises(KeyboardInterrupt):
        repository.package(MODEL, provenance())
    assert not repository.path("best_model", 3).exists()
    # A harder death leaves the folder behind; its name must not look like a version to Triton.
    assert [name[0].isdigit() for name in staged] == [False]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_nothing_is_named_and_leaves_nothing(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic_files, "fsync_directory", refuse)
    with pytest.raises(RepositoryNotWritable, match=f"best_model/3: {os.strerror(number)}"):
        repository.package(MODEL, provenance())
    assert list(repository.path("best_model", 3).parent.iterdir()) == []
    with pytest.raises(RepositoryNotWritable, match=r"config.pbtxt: "):
        repository.persist_config("best_model", "x")


def test_what_a_killed_publisher_left_is_removed_once_no_writer_can_exist(
    repository: ModelRepository,
) -> None:
    model = repository.path("best_model", 3).parent
    for left in ("staging-1-killed", "staging-2-writing"):
        (model / left).mkdir(parents=True)
        (model / left / "model.onnx").write_bytes(MODEL)
    (model / "staging-config.pbtxt-killed").write_text("x")
    hours_ago = time.time() - 2 * 3600
    for old in ("staging-1-killed/model.onnx", "staging-1-killed", "staging-config.pbtxt-killed"):
        os.utime(model / old, (hours_ago, hours_ago))
    # A large file may be written for hours into a folder that was made long ago.
    os.utime(model / "staging-2-writing", (hours_ago, hours_ago))
    repository.package(MODEL, provenance())
    assert {entry.name for entry in model.iterdir()} == {"3", "staging-2-writing"}


def test_a_publisher_that_lost_the_race_keeps_the_winner(
    repository: ModelRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.rename

    def beaten(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", original)
        repository.package(MODEL, provenance())
        return original(self, target)

    monkeypatch.setattr(Path, "rename", beaten)
    assert not repository.package(MODEL, provenance())
    assert repository.verify("best_model", 3) == provenance()


def test_there_is_no_configuration_before_the_first_ready(repository: ModelRepository) -> None:
    repository.package(MODEL, provenance())
    assert repository.persisted_config("best_model") is None


@pytest.mark.parametrize("name", ["../x", "a/b", "1model", "mödel", "", "a" * 101, "x\n"])
def test_a_name_that_could_leave_the_repository_is_refused(
    repository: ModelRepository, name: str
) -> None:
    with pytest.raises(ValueError, match="model name"):
        repository.path(name, 1)


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_mlflow_never_gives_has_no_folder(
    repository: ModelRepository, version: int
) -> None:
    with pytest.raises(ValueError, match="versions start at 1"):
        repository.path("m", version)
