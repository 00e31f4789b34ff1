"""Loading a version beside those that serve, on a real Triton and a real repository."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from platform_assets.export.records import PackagedVersion
from platform_assets.export.triton_config import (
    ServingOptions,
    from_text,
    load_override,
    served_versions,
    to_text,
    with_versions,
)
from platform_assets.resources import atomic_files
from platform_assets.resources.triton import TritonUnreachable
from platform_assets.serving.loading import retire
from platform_assets.serving.reconcile import observed_drift
from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.scale import report, scale
from tests.support.servers import RunningTriton, loaded_config, run_triton, wait_until
from tests.support.serving import Serving, workers


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    home = tmp_path_factory.mktemp("loading")
    (home / "repository").mkdir()
    with run_triton(home / "repository", home / "triton") as running:
        yield running


@pytest.fixture
def serving(triton: RunningTriton) -> Serving:
    """A Triton that serves nothing, with an empty repository; a test may kill it."""
    found = Serving(triton)
    if triton.process.running:
        if found.ready:
            found.triton.endpoints()[0].unload(DEFAULT_MODEL)
        wait_until(lambda: not found.ready and not workers(triton), 60, "nothing is served")
    shutil.rmtree(triton.repository / DEFAULT_MODEL, ignore_errors=True)
    if not triton.process.running:
        triton.restart()
    return found


def test_the_first_version_becomes_ready_and_is_persisted(serving: Serving) -> None:
    state = serving.load(serving.package(1))
    assert state.ready
    assert (serving.ready, serving.persisted) == ((1,), (1,))
    assert serving.answer(1) == 1


def test_a_candidate_becomes_ready_beside_production(serving: Serving) -> None:
    serving.load(serving.package(1))
    state = serving.load(serving.package(2))
    assert state.ready
    assert state.ready_versions == (1, 2)
    assert serving.persisted == (1, 2)
    assert (serving.answer(1), serving.answer(2)) == (1, 2)


def test_a_restarted_triton_serves_exactly_what_served(serving: Serving) -> None:
    for version in (1, 2):
        serving.load(serving.package(version))
    serving.package(3)  # packaged, never loaded: it must not come up
    serving.running.kill()
    serving.running.restart()
    assert serving.ready == (1, 2)


def test_a_publisher_that_dies_before_ready_leaves_a_disk_that_restarts_well(
    serving: Serving,
) -> None:
    serving.package(1)
    serving.running.restart()
    assert serving.ready == ()  # no config.pbtxt: nothing was verified


@pytest.mark.parametrize("damage", [b"", b"not a graph", None])
def test_a_version_damaged_after_packaging_is_not_loaded(
    serving: Serving, damage: bytes | None
) -> None:
    serving.load(serving.package(1))
    config = serving.repository.persisted_config(DEFAULT_MODEL)
    packaged = serving.package(2)
    path = serving.repository.path(DEFAULT_MODEL, 2) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)

    state = serving.load(packaged)

    assert not state.ready
    assert "changed or truncated after packaging" in state.reason
    assert (state.ready_versions, serving.ready) == ((1,), (1,))
    assert serving.repository.persisted_config(DEFAULT_MODEL) == config
    serving.running.restart()
    assert serving.ready == (1,)
    assert serving.answer(1) == 1


def test_a_load_that_triton_refuses_leaves_everything_as_it_was(serving: Serving) -> None:
    serving.load(serving.package(1))
    config = serving.repository.persisted_config(DEFAULT_MODEL)
    packaged = serving.package(2)
    wrong = from_text(packaged.config_text)
    wrong.instance_group[0].kind = type(wrong.instance_group[0]).KIND_GPU
    refused = PackagedVersion(DEFAULT_MODEL, 2, "run-2", packaged.sha256, to_text(wrong))

    state = serving.load(refused)

    assert not state.ready
    assert "GPU" in state.reason
    assert serving.ready == (1,)
    assert serving.answer(1) == 1
    assert serving.repository.persisted_config(DEFAULT_MODEL) == config


def _is_damaged(serving: Serving, version: int) -> None:
    packaged = serving.package(version)
    path = serving.repository.path(DEFAULT_MODEL, version) / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert not serving.load(packaged).ready


def _is_no_graph(serving: Serving, version: int) -> None:
    # Its digest is right, so Triton is the first to notice.
    state = serving.load(serving.package(version, graph=b"no graph, as it was registered"))
    assert not state.ready
    assert "not loaded" not in state.reason, "Triton itself was asked"


def _wants_a_gpu(serving: Serving, version: int) -> None:
    packaged = serving.package(version)
    wrong = from_text(packaged.config_text)
    wrong.instance_group[0].kind = type(wrong.instance_group[0]).KIND_GPU
    assert not serving.load(replace(packaged, config_text=to_text(wrong))).ready


def _loses_its_publisher(serving: Serving, version: int) -> None:
    config = from_text(serving.package(version).config_text)
    override = load_override(with_versions(config, [*serving.ready, version]))
    serving.triton.load(DEFAULT_MODEL, override)
    serving.triton.wait_until_ready(DEFAULT_MODEL, version)


def _loses_triton(serving: Serving, version: int) -> None:
    packaged, said = serving.package(version), len(serving.lines)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(serving.load, packaged)
        wait_until(lambda: len(serving.lines) > said, 20, "the load is asked for")
        serving.running.kill()
        with pytest.raises(TritonUnreachable):
            loading.result()


BAD = (_is_no_graph, _loses_its_publisher, _loses_triton, _is_damaged, _wants_a_gpu)


def test_a_triton_that_dies_after_a_bad_candidate_serves_exactly_what_served(
    serving: Serving,
) -> None:
    for version in (1, 2):
        serving.load(serving.package(version))
    config, rounds, took = serving.repository.persisted_config(DEFAULT_MODEL), scale(1, 20), []
    for number in range(rounds):
        BAD[number % len(BAD)](serving, number + 3)
        if serving.running.process.running:
            serving.running.kill()
        began = time.monotonic()
        serving.running.restart()
        took.append(time.monotonic() - began)
        assert serving.ready == (1, 2), BAD[number % len(BAD)]
        assert (serving.answer(1), serving.answer(2)) == (1, 2)
        assert serving.repository.persisted_config(DEFAULT_MODEL) == config
    assert serving.load(serving.package(rounds + 3)).ready_versions == (1, 2, rounds + 3)
    report("bad_candidates", restarts=rounds, serving_again_seconds_at_most=round(max(took), 1))


def test_a_broken_neighbour_does_not_keep_a_good_candidate_out(serving: Serving) -> None:
    for version in (1, 2):
        serving.load(serving.package(version))
    serving.running.process.stop()
    (serving.repository.path(DEFAULT_MODEL, 1) / "model.onnx").write_bytes(b"damaged")
    serving.running.process.start()

    state = serving.load(serving.package(3))

    assert state.ready
    assert serving.ready == (2, 3)
    assert serving.persisted == (2, 3)


def test_a_full_disk_after_ready_gives_the_candidate_back(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving.load(serving.package(1))
    candidate = serving.package(2)

    def full(path: Path, data: bytes, prefix: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files, "replace_file", full)
    state = serving.load(candidate)

    assert not state.ready
    assert "config.pbtxt: No space left on device" in state.reason
    assert (serving.ready, serving.persisted) == ((1,), (1,))
    assert serving.answer(1) == 1


def test_launch_options_reach_triton(serving: Serving) -> None:
    state = serving.load(serving.package(1, ServingOptions(True, 2, max_batch_size=4)))
    assert state.ready
    triton = serving.triton
    loaded = loaded_config(triton.url, triton.control_key, DEFAULT_MODEL, 1)
    assert "dynamic_batching" in loaded
    assert loaded["max_batch_size"] == 4
    assert loaded["instance_group"][0]["count"] == 2


def test_retiring_unloads_the_rest_and_persists_what_stays(serving: Serving) -> None:
    for version in (1, 2, 3):
        serving.load(serving.package(version))
    retired = retire(DEFAULT_MODEL, [2, 3], triton=serving.triton, repository=serving.repository)
    assert retired == (1,)
    assert (serving.ready, serving.persisted) == ((2, 3), (2, 3))
    assert serving.answer(2) == 2


def test_drift_is_what_was_loaded_or_unloaded_from_outside(serving: Serving) -> None:
    assert observed_drift(DEFAULT_MODEL, serving.triton, serving.repository) is None
    serving.load(serving.package(1))
    assert not observed_drift(DEFAULT_MODEL, serving.triton, serving.repository)
    serving.triton.endpoints()[0].unload(DEFAULT_MODEL)
    found = observed_drift(DEFAULT_MODEL, serving.triton, serving.repository)
    assert found is not None
    assert found.lost == (1,)


def test_triton_down_changes_nothing_on_disk(serving: Serving) -> None:
    serving.load(serving.package(1))
    config = serving.repository.persisted_config(DEFAULT_MODEL)
    packaged = serving.package(2)
    serving.running.kill()
    with pytest.raises(TritonUnreachable):
        serving.load(packaged)
    assert serving.repository.persisted_config(DEFAULT_MODEL) == config


def test_the_configuration_names_what_it_serves(serving: Serving) -> None:
    serving.load(serving.package(5))
    text = serving.repository.persisted_config(DEFAULT_MODEL)
    assert text is not None
    assert served_versions(from_text(text)) == (5,)
