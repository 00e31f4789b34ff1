"""What is put right before a service starts again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from platform_assets.export.inspection import sha256
from platform_assets.export.triton_config import (
    ServingOptions,
    TensorSpec,
    from_text,
    model_config,
    served_versions,
    to_text,
)
from platform_assets.local_stack.recovery import exclude_corrupt_versions, fail_abandoned_runs
from platform_assets.resources.model_repository import ModelRepository, Provenance, RepositoryError
from serving_gateway.contract import DType

NAME = "best_model"


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    """Versions 1 and 2, both in the policy."""
    repository = ModelRepository(root=str(tmp_path))
    for version in (1, 2):
        graph = f"graph {version}".encode()
        provenance = Provenance(NAME, version, "run", sha256(graph), "f", "test")
        repository.package(graph, provenance)
    tensors = [TensorSpec("x", DType.FP32, (None, 1))]
    config = model_config(NAME, tensors, tensors, [1, 2], ServingOptions())
    repository.persist_config(NAME, to_text(config))
    return repository


def policy(repository: ModelRepository) -> tuple[int, ...]:
    return served_versions(from_text(repository.persisted_config(NAME) or ""))


def damage(repository: ModelRepository, version: int) -> None:
    (repository.path(NAME, version) / "model.onnx").write_bytes(b"damaged")


def test_whole_versions_stay_in_the_policy(repository: ModelRepository) -> None:
    before = repository.persisted_config(NAME)
    assert list(exclude_corrupt_versions(Path(repository.root))) == []
    assert repository.persisted_config(NAME) == before


@pytest.mark.parametrize("config", [b"name: {", b'name: "\xff"'])
def test_config_that_cannot_be_read_keeps_no_other_model_from_coming_back(
    repository: ModelRepository, config: bytes
) -> None:
    damage(repository, 1)
    path = Path(repository.root) / NAME / "config.pbtxt"
    path.write_bytes(config)
    found = list(exclude_corrupt_versions(Path(repository.root)))
    assert [name for name, _ in found] == [NAME, NAME]
    assert "config.pbtxt cannot be read" in found[0][1]
    assert path.read_bytes() == config


def test_config_that_is_not_text_is_an_error_of_the_repository(repository: ModelRepository) -> None:
    (Path(repository.root) / NAME / "config.pbtxt").write_bytes(b"\xff")
    with pytest.raises(RepositoryError, match=r"config\.pbtxt is not text any more"):
        repository.persisted_config(NAME)


def test_a_broken_version_is_taken_out_so_that_the_others_come_back(
    repository: ModelRepository,
) -> None:
    damage(repository, 1)
    ((name, reason),) = exclude_corrupt_versions(Path(repository.root))
    assert name == NAME
    assert "changed or truncated after packaging" in reason
    assert policy(repository) == (2,)


def test_a_policy_of_which_nothing_would_be_left_stays(repository: ModelRepository) -> None:
    damage(repository, 1)
    damage(repository, 2)
    assert len(list(exclude_corrupt_versions(Path(repository.root)))) == 2
    assert policy(repository) == (1, 2)


def test_a_version_that_was_not_packaged_here_is_not_judged(repository: ModelRepository) -> None:
    (repository.path(NAME, 1) / "provenance.json").unlink()
    damage(repository, 1)
    assert list(exclude_corrupt_versions(Path(repository.root))) == []
    assert policy(repository) == (1, 2)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_runs_whose_process_died_are_failed_and_others_are_left(
    instance: dg.DagsterInstance,
) -> None:
    statuses = {
        status: dg.DagsterRun(job_name="job", status=status)
        for status in (
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.CANCELING,
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.SUCCESS,
        )
    }
    for run in statuses.values():
        instance.add_run(run)
    failed = fail_abandoned_runs()
    assert len(failed) == 3
    after = {
        status: instance.get_run_by_id(run.run_id).status  # type: ignore[union-attr] # just added
        for status, run in statuses.items()
    }
    ended = dg.DagsterRunStatus.FAILURE
    left = {dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.SUCCESS}
    assert after == {status: status if status in left else ended for status in statuses}
