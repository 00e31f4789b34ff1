"""Going back: at once while the version is READY, after a load when it was retired."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from platform_assets.model_spec import CandidateSpec
from platform_assets.passport.document import seal
from platform_assets.passport.making import Sources, make_passport
from platform_assets.passport.verification import verify_passport
from platform_assets.resources.gateway import GatewayResource, GatewayUnavailable
from platform_assets.resources.mlflow_client import open_client
from platform_assets.serving.ledger import MANUAL, ROLLBACK, read_ledger
from platform_assets.serving.promotion import GATES
from platform_assets.serving.sensors import production_watch_sensor
from platform_assets.serving.turns import UNDER_WAY
from serving_gateway.contract import DEFAULT_MODEL, ReloadResponse
from tests.support.chain import op_config
from tests.support.full_platform import Platform
from tests.support.load import SteadyClient
from tests.support.servers import wait_until

SOON_S = 2.0


@pytest.fixture
def two(platform: Platform) -> tuple[int, int]:
    """Production and, before it, a version that is still READY."""
    if len(platform.ready()) != 2 or not platform.settled():
        platform.promote()
    before, production = platform.ready()
    assert platform.production() == production
    return before, production


def roll_back(platform: Platform, **config: Any) -> dict[str, str]:
    op = f"roll_back_{platform.spec.model_name}"
    return platform.execute(
        f"{platform.spec.model_name}_rollback", {"ops": {op: {"config": config}}}
    )


class _Forgetful(GatewayResource):
    """A gateway whose first answer to a rollback is lost on the way."""

    def rollback(self, *args: Any, **kwargs: Any) -> ReloadResponse:
        answer = GatewayResource.rollback(self, *args, **kwargs)
        if not lost:
            lost.append(answer.version)
            raise GatewayUnavailable("the connection broke")
        return answer


lost: list[int] = []


def test_a_rollback_whose_answer_was_lost_goes_to_the_same_version_when_tried_again(
    platform: Platform, two: tuple[int, int]
) -> None:
    before, production = two
    lost.clear()
    there = platform.resources["gateway"]
    forgetful = _Forgetful(urls=there.urls, control_token=there.control_token)
    with_it = replace(platform, resources={**platform.resources, "gateway": forgetful})
    assert roll_back(with_it) == {}
    assert lost == [before]
    assert platform.production() == before != production


WATCHED = ("gateway", "mlflow", "model_repository", "ledger")


def watch(platform: Platform) -> str:
    """Let `production_watch` look once; return what it said."""
    # It waits for runs under way, also for one that another test left so.
    for run in platform.instance.get_runs(dg.RunsFilter(statuses=[*UNDER_WAY])):
        platform.instance.report_run_canceled(run)
    context = dg.build_sensor_context(
        instance=platform.instance,
        resources={name: platform.resources[name] for name in WATCHED},
    )
    result: Any = production_watch_sensor([platform.spec])(context)
    return str(result.skip_reason.skip_message)


def test_production_goes_back_under_load_without_a_failed_request(
    platform: Platform, two: tuple[int, int]
) -> None:
    before, production = two
    client = SteadyClient(platform.gateway.url)
    with client.asking():
        wait_until(lambda: production in client.versions, 10, "production answers")
        clicked = time.monotonic()
        assert roll_back(platform, reason="it was wrong", by="ada") == {}
        wait_until(lambda: client.versions[-1] == before, 10, "the version before answers")
    assert client.failures == []
    last_old = max(at for at, version in client.answers if version == production)
    assert last_old - clicked < SOON_S
    switched = client.versions.index(before)
    assert set(client.versions[:switched]) == {production}
    assert set(client.versions[switched:]) == {before}

    newest = read_ledger(platform.instance, platform.spec)[0]
    assert (newest.version, newest.previous_version) == (before, production)
    assert (newest.action, newest.by) == (ROLLBACK, "ada")
    assert "it was wrong" in newest.reason
    assert platform.gateway.models()["effective"]["A"]["mode"] == "pinned"
    assert platform.resources["mlflow"].alias_version(platform.spec.model_name, "production") == (
        before
    )

    # By hand there and back within one look of the sensor: the ledger has both.
    assert platform.gateway.reload(version=production, reason="short stay").status_code == 200
    answer = platform.gateway.client.post("/variant/A/rollback", json={"reason": "no good"})
    assert answer.json()["version"] == before, answer.text
    watched, again = watch(platform), watch(platform)
    assert f"version {production}, generation {newest.generation + 1}, entered" in watched
    assert "entered" not in again
    assert [
        (one.version, one.previous_version, one.generation, one.action, one.reason, one.missing)
        for one in read_ledger(platform.instance, platform.spec)[:2]
    ] == [
        (before, production, newest.generation + 2, MANUAL, "no good", ""),
        (production, before, newest.generation + 1, MANUAL, "short stay", ""),
    ]


def test_passport_agrees_with_every_server_until_a_byte_of_the_model_changes(
    platform: Platform, two: tuple[int, int]
) -> None:
    before, production = two
    assert roll_back(platform, reason="it was wrong", by="ada") == {}
    there, name = platform.resources, platform.spec.model_name
    sources = Sources(
        journal=there["ledger"].journal,
        key=there["ledger"].deployment_key(),
        instance=platform.instance,
        mlflow=there["mlflow"],
        repository=platform.repository,
    )
    passport = make_passport(sources, name, production)
    assert passport.missing == []
    assert (passport.periods[-1].action, passport.periods[-1].until) != (ROLLBACK, None)
    assert make_passport(sources, name, before).periods[-1].by == "ada"
    assert len(passport.values("Digests", "model.onnx")) == 5, "every source has it"
    of_ledger = {f.name for f in passport.facts["Gates"] if f.source.startswith("ledger")}
    assert of_ledger == set(GATES)
    rows = passport.values("Data", "rows")
    assert rows == {"Dagster, features": 450}
    sealed = seal(passport, sources.key)
    assert verify_passport(sources, sealed).problems == []

    model = platform.repository.path(name, production) / "model.onnx"
    graph = model.read_bytes()
    try:
        model.write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
        assert any("model.onnx" in one for one in verify_passport(sources, sealed).problems)
    finally:
        model.write_bytes(graph)


def test_a_retired_version_is_loaded_from_the_repository_first(
    platform: Platform, two: tuple[int, int]
) -> None:
    retired, production = two
    retire = op_config("gateway_reload", {"retention": 1})
    assert platform.run("gateway_reload", run_config=retire).success
    assert platform.ready() == (production,)
    assert roll_back(platform, version=retired) == {}
    assert platform.answering_version() == retired
    assert platform.ready() == two


def test_a_version_that_is_not_there_any_more_leaves_everything_as_it_was(
    platform: Platform, two: tuple[int, int]
) -> None:
    generation = platform.generation()
    failures = roll_back(platform, version=9999)
    [message] = failures.values()
    assert "othing was rolled back: version 9999" in message
    assert "name another version" in message
    assert platform.generation() == generation
    assert platform.answering_version() == two[1]


def test_a_version_that_its_gates_kept_out_is_nothing_to_go_back_to(
    platform: Platform, two: tuple[int, int]
) -> None:
    generation = platform.generation()
    weak = CandidateSpec("decision_tree", grid={"max_depth": (1,)})
    blocked = platform.of(
        candidates=(weak,), gates=replace(platform.spec.gates, metric_floor=0.3)
    ).run()
    refused = blocked.values["triton_serving_state"].version
    assert refused in platform.ready()
    [message] = roll_back(platform, version=refused).values()
    assert f"version {refused} of best_model never was in production" in message
    assert platform.generation() == generation
    assert platform.answering_version() == two[1]


def test_a_variant_without_a_past_says_so(platform: Platform, two: tuple[int, int]) -> None:
    [message] = roll_back(platform, variant="B").values()
    assert "has no earlier version" in message
    [message] = roll_back(platform, variant="C").values()
    assert "there is no variant 'C'" in message.lower().replace("'c'", "'C'")


def test_without_a_gateway_nothing_is_rolled_back(platform: Platform, two: tuple[int, int]) -> None:
    platform.gateway.process.kill()
    try:
        [message] = roll_back(platform).values()
    finally:
        platform.gateway.process.restart()
    assert "othing was rolled back" in message
    platform.gateway.wait_ready()
    assert platform.answering_version() == two[1]


def test_production_and_its_predecessor_deleted_in_mlflow_are_in_no_rollbacks_way(
    platform: Platform, two: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    before, _ = two
    mlflow, client = platform.resources["mlflow"], open_client(platform.mlflow.url)
    request.addfinalizer(platform.promote)  # other tests want a version that MLflow knows
    for version in two:
        client.delete_run(mlflow.version(DEFAULT_MODEL, version).run_id)
        client.delete_model_version(DEFAULT_MODEL, str(version))
    assert roll_back(platform, version=before) == {}
    assert platform.answering_version() == before
    slot = platform.gateway.models()["effective"]["A"]
    assert (slot["version"], slot["run_id_source"]) == (before, "record")
    newest = platform.instance.get_latest_materialization_event(
        dg.AssetKey(platform.spec.key("gateway_reload"))
    )
    assert newest is not None
    assert newest.asset_materialization is not None
    said = str(newest.asset_materialization.metadata["registry"].value)
    assert said.startswith("not recorded: "), "which the run warns of"
