"""`kill -9` of runs, and their cancellation: what is done is done once, and what serves goes on.

The quick form kills a run once in every asset, where a half-done thing is the hardest to go on
from, and cancels two; the long form (`FAULTS=long`) kills at every point of `MIDWAY` and of
`UNREPORTED`, and cancels three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import pytest

from platform_assets.serving.ledger import PROMOTION, ROLLBACK
from platform_assets.serving.turns import CHANGE, LEASE, busy_models
from tests.faults.killing import KillPoint, When
from tests.faults.runs import SPEC
from tests.faults.scale import report, scale
from tests.faults.world import KILLED, NAME, World, run_world

REPOSITORY: Final = "platform_assets.resources.model_repository:"
MLFLOW: Final = "platform_assets.resources.mlflow:MlflowResource."


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill, and the step that it must hit."""

    step: str
    point: KillPoint
    triton_restarts: bool = False
    """Triton starts again from the disk that the killed run left."""


def kill(step: str, when: When, function: str, **more: Any) -> Kill:
    return Kill(step, KillPoint(when, function, **more))


MIDWAY: Final = (
    kill("features", "after", "pyarrow.parquet:ParquetWriter.write_table", call=2),
    kill(
        "online_features",
        "after",
        "platform_assets.features.materialization:write_newest",
    ),
    kill("trained_model", "before", "platform_assets.training.competition:cross_validate", call=2),
    kill(
        "registered_model",
        "before",
        "mlflow.tracking.client:MlflowClient.create_model_version",
    ),
    kill("onnx_model", "before", MLFLOW + "set_version_tags"),
    kill("triton_model_entry", "before", "platform_assets.resources.atomic_files:fsync_directory"),
    kill(
        "triton_serving_state",
        "during",
        "platform_assets.resources.triton_endpoint:TritonEndpoint.load",
        seconds=0.5,
    ),
    kill("serving_gates", "after", "platform_assets.serving.loaded_version:ask_triton"),
    kill(
        "gateway_reload",
        "during",
        "platform_assets.resources.gateway:GatewayResource.reload",
        seconds=0.01,
    ),
    kill("serving_proof", "after", "platform_assets.serving.proof_asset:collect_proof"),
)
"""In the midst of the work of every asset, and of a gate."""

UNREPORTED: Final = (
    kill("trained_model", "after", "platform_assets.training.assets:train"),
    kill("registered_model", "after", MLFLOW + "register"),
    kill("onnx_model", "after", MLFLOW + "set_version_tags"),
    kill("triton_model_entry", "after", REPOSITORY + "ModelRepository.package"),
    Kill(
        "triton_serving_state",
        KillPoint("before", REPOSITORY + "ModelRepository.persist_config"),
        triton_restarts=True,
    ),
    kill("triton_serving_state", "after", "platform_assets.serving.assets:load_beside"),
    kill("gateway_reload", "before", "platform_assets.serving.reload_asset:wait_for_replicas"),
    kill("gateway_reload", "after", MLFLOW + "set_alias"),
    kill("serving_proof", "after", "platform_assets.resources.folders:ProofFolder.write"),
)
"""The work is done, and not yet reported to Dagster."""

_ONE_PER_STEP: Final = (
    *(*MIDWAY[:3], *UNREPORTED[1:3]),
    *(MIDWAY[5], UNREPORTED[4], MIDWAY[7]),
    *(UNREPORTED[6], UNREPORTED[8]),
)
"""Where an MLflow run is open or a directory half written, and else where all is done already."""
KILLS: Final = (
    {"midway": MIDWAY, "done and unreported": UNREPORTED}
    if scale(0, 1)
    else {"one per step": _ONE_PER_STEP}
)

CANCELED: Final = (
    kill(
        "triton_model_entry",
        "before",
        "platform_assets.resources.atomic_files:write_new",
        call=2,
    ),
    kill("gateway_reload", "before", "platform_assets.resources.gateway:GatewayResource.reload"),
    kill("gateway_reload", "before", "platform_assets.serving.reload_asset:wait_for_replicas"),
)
"""A version half written, one that is READY with its gates passed, one that is switched to."""
CANCELLATIONS: Final = CANCELED if scale(0, 1) else (CANCELED[0], CANCELED[-1])

pytestmark = pytest.mark.timeout(1_800)
"""A guard against hangs: a run takes seconds, and half a minute on a busy machine."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with run_world(tmp_path_factory.mktemp("faults")) as world:
        yield world


@pytest.fixture
def three(world: World) -> World:
    """A world in which three versions were in production, one after the other."""
    while len(world.ledger()) < 3:
        assert world.run() == 0, world.log()
    return world


def test_a_run_canceled_while_it_publishes_or_switches_leaves_nothing_half_done(
    world: World,
) -> None:
    before, version = world.kept(), len(world.registered()) + 1
    left = world.leftovers()
    world.change_source()
    parent = None
    for one in CANCELLATIONS:
        assert world.run(parent=parent, point=one.point, is_canceled=True) == 1, world.log()
        run = world.newest_run()
        assert run.status is dg.DagsterRunStatus.CANCELED, world.log()
        assert world.failed_steps() == {f"{SPEC.model_name}__{one.step}"}
        assert busy_models(world.instance, CHANGE, LEASE) == set(), "its turns ended with it"
        assert world.leftovers() == left
        packaged = () if one is CANCELED[0] else (version,)
        assert world.repository.versions(NAME) == (*before.packaged, *packaged)
        assert world.repository.broken(NAME, packaged) == {}
        production = version if one is CANCELED[-1] else before.production
        assert world.production() == production
        assert production is None or world.answering_version() == production
        parent = run.run_id

    assert world.run(parent=parent) == 0, world.log()

    kept = world.kept()
    assert kept.registered == (*before.registered, version)
    assert kept.packaged == (*before.packaged, version)
    assert kept.production == world.answering_version() == version
    assert kept.policy == world.ready()
    assert kept.ledger == ((version, before.production, before.generation + 1), *before.ledger)
    assert world.chained() == [(one.version, one.generation) for one in world.ledger()[::-1]]
    report("canceled_runs", canceled=len(CANCELLATIONS))


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_a_run_killed_at_every_asset_and_resumed_does_each_thing_once(
    world: World, kills: tuple[Kill, ...]
) -> None:
    while not world.ledger():  # what serves is to go on serving
        assert world.run() == 0, world.log()
    before, version = world.kept(), len(world.registered()) + 1
    world.change_source()
    parent = None
    for one in kills:
        assert world.run(parent=parent, point=one.point) == KILLED, (one, world.log())
        assert world.step_under_way() == f"{SPEC.model_name}__{one.step}"
        parent = world.newest_run().run_id
        left = world.kept()
        if one.step not in ("gateway_reload", "serving_proof"):
            assert (left.production, left.generation) == (before.production, before.generation)
        assert left.production is None or world.answering_version() == left.production
        if one.triton_restarts:
            world.restart_triton()
            assert world.ready() == before.policy
            assert world.production() == before.production

    assert world.run(parent=parent) == 0, world.log()

    kept = world.kept()
    assert kept.registered == (*before.registered, version)
    assert kept.packaged == (*before.packaged, version)
    ready = (*before.policy, version)[-SPEC.serving.retention :]
    assert kept.policy == world.ready() == ready
    assert kept.production == world.answering_version() == version
    assert kept.generation == before.generation + 1
    assert kept.ledger == ((version, before.production, kept.generation), *before.ledger)
    assert world.ledger()[0].action == PROMOTION
    assert world.chained() == [(one.version, one.generation) for one in world.ledger()[::-1]]
    assert world.mlflow_runs("RUNNING") == []
    assert world.runs_of_version(version) == {world.registered()[-1]["run_id"]}
    *former, status = world.status_tags()
    assert status.startswith("in production since")
    assert all(one.startswith("was in production") for one in former)
    report("killed_runs", kills=sum(map(len, KILLS.values())))


def test_a_resumed_run_does_not_pass_a_gate_that_failed(world: World) -> None:
    before, version = world.kept(), len(world.registered()) + 1
    load = KillPoint("before", "platform_assets.serving.assets:load_beside")
    assert world.run(point=load) == KILLED, world.log()
    model = world.repository.path(NAME, version) / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-10])
    for _ in range(2):
        assert world.run(parent=world.newest_run().run_id) == 1
        left = world.kept()
        assert (left.production, left.generation) == (before.production, before.generation)
        assert left.policy == before.policy
        assert left.production is None or world.answering_version() == left.production

    model.write_bytes(whole)
    assert world.run("serving") == 0, world.log()
    kept = world.kept()
    assert kept.registered == kept.packaged == (*before.registered, version)
    assert kept.production == world.answering_version() == version
    assert kept.ledger == ((version, before.production, before.generation + 1), *before.ledger)


def test_a_killed_rollback_that_is_resumed_goes_back_once(three: World) -> None:
    before = three.kept()
    unreported = KillPoint("before", "platform_assets.serving.rollback:wait_for_replicas")
    assert three.run("rollback", point=unreported) == KILLED, three.log()
    target = three.production()
    assert target == before.ledger[1][0]

    assert three.run("rollback", parent=three.newest_run().run_id) == 0, three.log()

    kept = three.kept()
    assert kept.production == three.answering_version() == target
    assert kept.ledger == ((target, before.production, before.generation + 1), *before.ledger)
    assert three.ledger()[0].action == ROLLBACK


def test_a_killed_rollback_to_a_retired_version_ends_with_one_that_survives_triton(
    three: World,
) -> None:
    retired = three.ledger()[-1].version
    assert retired not in three.ready()
    config = {"ops": {f"roll_back_{SPEC.model_name}": {"config": {"version": retired}}}}
    loaded = KillPoint("before", REPOSITORY + "ModelRepository.persist_config")
    assert three.run("rollback", point=loaded, config=config) == KILLED, three.log()
    assert retired in three.ready()

    assert three.run("rollback", parent=three.newest_run().run_id) == 0, three.log()

    assert three.answering_version() == retired
    three.restart_triton()
    assert three.answering_version() == retired
