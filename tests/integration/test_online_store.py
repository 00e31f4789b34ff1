"""What is written to the online store, and deleted from it, on SQLite and Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import redis as redis_client

from platform_assets.model_spec import (
    FeatureSpec,
)
from platform_assets.resources.feast import FeatureStoreError
from platform_assets.resources.feast_online import OnlineView
from platform_assets.resources.mlflow import RegistryError
from platform_assets.serving.promotion import delete_unread_views
from serving_gateway.features.types import Status
from tests.support.feature_chain import ONLINE, FeatureChain
from tests.support.servers import RunningRedis, run_redis
from tests.support.visits import (
    SPEC,
    changes,
    read_as_gateway,
    run,
    visit_lines,
    visits_chain,
    write_source,
)

WIDER = dataclasses.replace(SPEC, features=(*SPEC.features, FeatureSpec("z")))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with run_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of each kind of online store: empty for SQLite."""
    if request.param == "sqlite":
        return ""
    running: RunningRedis = request.getfixturevalue("redis")
    redis_client.Redis(port=running.port).flushall()
    return running.url


@pytest.fixture
def chain(store: str, tmp_path: Path) -> FeatureChain:
    return visits_chain(tmp_path, store)


class _Writes:
    """Whether the online store was changed since the last question."""

    def __init__(self, chain: FeatureChain) -> None:
        self._redis = redis_client.Redis.from_url(chain.feast.redis) if chain.feast.redis else None
        if self._redis is None:
            self._database = sqlite3.connect(chain.feast.home / "online.db")
        self._known = self._version()

    def _version(self) -> Any:
        if self._redis is None:
            return self._database.execute("PRAGMA data_version").fetchone()
        stats: Any = self._redis.info("commandstats")
        return {name: calls["calls"] for name, calls in stats.items() if "set" in name}

    @property
    def any(self) -> bool:
        before, self._known = self._known, self._version()
        return bool(before != self._known)


def test_unchanged_data_writes_nothing(chain: FeatureChain) -> None:
    assert changes(run(chain)) == (40, 0)
    writes = _Writes(chain)
    assert changes(run(chain)) == (0, 0)
    assert not writes.any
    write_source(chain, visit_lines(range(39, -1, -1)))
    assert changes(run(chain)) == (0, 0), "rows in another order"
    write_source(chain, [*visit_lines(range(40)), *visit_lines(range(1), day=2)])
    assert changes(run(chain)) == (1, 0)
    assert writes.any


def test_first_missing_value_of_a_feature_is_one_change(tmp_path: Path) -> None:
    chain = visits_chain(tmp_path)
    lines = [line.replace(",,", ",n,") for line in visit_lines(range(40))]
    write_source(chain, lines)
    run(chain)
    write_source(chain, [lines[0].replace(",n,", ",,"), *lines[1:]])
    assert changes(run(chain)) == (1, 0)


def test_only_the_difference_is_written_and_what_left_the_source_is_deleted(
    chain: FeatureChain,
) -> None:
    run(chain)
    lines = visit_lines(range(40))
    lines[7] = visit_lines(range(7, 8), x=0.75)[0]
    del lines[5]
    write_source(chain, [*lines, *visit_lines(range(50, 53))])
    assert changes(run(chain)) == (4, 1)
    assert chain.online(7)[0] == 7.75
    assert chain.online(50) == [50.5, None]
    [gone] = chain.feast.online(SPEC.feature_view).read([5])
    assert (gone.observed_at, gone.values) == (None, {})
    statuses = [one.status for one in asyncio.run(read_as_gateway(chain.feast, 5, 7))]
    assert statuses == [Status.UNKNOWN, Status.FOUND], "of the gateway"
    kept = [*chain.feast.data_dir.joinpath("visits", "online").glob("*.parquet")]
    assert len(kept) == 1, "a record of what was deleted is not kept either"


def test_an_entity_that_left_disappears_from_the_views_of_older_versions(
    chain: FeatureChain,
) -> None:
    run(chain)
    chain.spec = WIDER
    write_source(chain, visit_lines(range(1, 40), x=0.75))
    assert changes(run(chain)) == (39, 1)
    older = chain.feast.online(SPEC.feature_view).read([0, 1])
    assert [row.values.get("x") for row in older] == [None, 1.5]
    assert changes(run(chain)) == (0, 0)


def test_contract_that_comes_back_has_the_entities_that_came_back(chain: FeatureChain) -> None:
    run(chain)
    chain.spec = WIDER
    write_source(chain, visit_lines(range(20)))
    run(chain)
    kept = [*chain.feast.data_dir.joinpath("visits", "online").glob("*.parquet")]
    assert len(kept) == 1, "none that holds entities that left the source"
    chain.spec = SPEC
    write_source(chain, visit_lines(range(40)))
    run(chain)
    found = chain.feast.online(SPEC.feature_view).read(range(40))
    assert [row.values.get("x") for row in found] == [number + 0.5 for number in range(40)]


def test_models_that_share_keys_lose_only_their_own(chain: FeatureChain, store: str) -> None:
    other = visits_chain(chain.home / "other", store, dataclasses.replace(SPEC, model_name="calls"))
    other.feast = chain.feast
    run(chain)
    run(other)
    write_source(other, visit_lines(range(10, 40)))
    assert changes(run(other)) == (0, 10)
    assert chain.online(0) == [0.5, "n"]
    if store:
        chain_only = redis_client.Redis.from_url(store)
        assert chain_only.dbsize() == 40 + 2, "entities, and what was written last"


def test_entities_of_a_release_that_kept_no_record_are_deleted(chain: FeatureChain) -> None:
    run(chain)
    view = chain.feast.online(SPEC.feature_view)
    view.mark("")
    for record in chain.feast.data_dir.joinpath("visits", "online").glob("*"):
        record.unlink()
    write_source(chain, visit_lines(range(3, 40)))
    assert changes(run(chain)) == (37, 3)
    assert [row.observed_at is None for row in view.read([2, 3])] == [True, False]


def _empty(chain: FeatureChain) -> None:
    if chain.feast.redis:
        redis_client.Redis.from_url(chain.feast.redis).flushall()
        return
    for file in chain.feast.home.glob("online.db*"):
        file.unlink()


def test_a_store_that_was_emptied_is_filled_again(chain: FeatureChain) -> None:
    run(chain)
    _empty(chain)
    assert changes(run(chain)) == (40, 0)
    assert chain.online(1)[0] == 1.5


def test_values_that_were_lost_fail_the_check_and_come_back_with_the_next_run(
    chain: FeatureChain,
) -> None:
    run(chain)
    chain.feast.online(SPEC.feature_view).delete([3])
    outcome = chain.run()
    check = outcome.checks["online_features.online_equals_offline"]
    assert not check.passed
    assert "materialize online_features again" in (check.description or "")
    assert "id 3, x: offline 3.5, online None" in str(check.metadata["examples"].value)
    assert changes(run(chain)) == (40, 0)
    assert chain.online(3)[0] == 3.5


def test_a_run_that_died_while_it_wrote_leaves_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that it wrote may be those of a source that has been corrected since."""
    chain = visits_chain(tmp_path)
    run(chain)

    def write(self: OnlineView, batches: Any) -> int:
        genuine(self, batches)
        raise FeatureStoreError("the connection was lost")

    genuine = OnlineView.write
    with monkeypatch.context() as patch:
        patch.setattr(OnlineView, "write", write)
        write_source(chain, visit_lines(range(40), x=0.75))
        assert "connection was lost" in chain.run().failures[ONLINE]
    assert chain.online(1)[0] == 1.75
    write_source(chain, visit_lines(range(40)))
    assert changes(run(chain)) == (40, 0)
    assert chain.online(1)[0] == 1.5


def test_entities_older_than_the_ttl_do_not_stop_the_chain(tmp_path: Path) -> None:
    """They are compared at their own time, and counted: the gateway does not serve them."""
    chain = visits_chain(tmp_path, spec=dataclasses.replace(SPEC, ttl=timedelta(days=30)))
    today = datetime.now(UTC).date() - timedelta(days=1)
    recent = [line.replace("2024-03-01", str(today)) for line in visit_lines(range(1, 40))]
    write_source(chain, [*visit_lines(range(1)), *recent])
    outcome = run(chain)
    compared = outcome.checks["online_features.online_equals_offline"].metadata
    assert compared["entities_sampled"].value == 40
    assert compared["entities_expired"].value == 1


def test_a_time_that_is_not_the_entity_s_newest_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway would let it expire too early."""
    chain = visits_chain(tmp_path)
    genuine = OnlineView.read

    def older(self: OnlineView, ids: Any) -> Any:
        return [
            row._replace(observed_at=row.observed_at and row.observed_at - timedelta(days=1))
            for row in genuine(self, ids)
        ]

    monkeypatch.setattr(OnlineView, "read", older)
    check = chain.run().checks["online_features.online_equals_offline"]
    assert check.metadata["values_differing"].value == 40


class _Versions(NamedTuple):
    """What a registry, Triton and the model repository say of versions; None: does not answer."""

    services: dict[int, str | None]
    on_disk: tuple[int, ...]
    ready: tuple[int, ...]

    def version(self, _: str, version: int) -> Any:
        service = self.services[version]
        if service is None:
            raise RegistryError("MLflow does not answer")
        return SimpleNamespace(signature=SimpleNamespace(feature_service=service))

    def versions(self, _: str) -> tuple[int, ...]:
        return self.on_disk

    def ready_anywhere(self, _: str) -> tuple[int, ...]:
        return self.ready


def _delete_unread(chain: FeatureChain, versions: Any) -> str:
    made = delete_unread_views(
        chain.spec,
        feast=chain.feast,
        mlflow=versions,
        triton=versions,
        repository=versions,
        log=logging.getLogger(),
    )
    return str(made["deleted_feature_views"])


def test_a_view_is_deleted_once_no_version_can_be_served_that_reads_it(
    chain: FeatureChain,
) -> None:
    run(chain)
    chain.spec = WIDER
    run(chain)
    older, newer = SPEC.feature_view, WIDER.feature_view
    services: dict[int, str | None] = {1: older, 2: newer, 3: None}
    for on_disk, ready in (((1, 2), (2,)), ((2,), (1, 2))):
        assert _delete_unread(chain, _Versions(services, on_disk, ready)) == "none"
    unknown = _delete_unread(chain, _Versions(services, (2, 3), (2,)))
    assert unknown == "stopped: MLflow does not answer"
    assert chain.feast.views("visits") == sorted([older, newer])
    assert _delete_unread(chain, _Versions(services, (2,), (2,))) == older
    assert chain.feast.views("visits") == [newer]
    assert chain.online(1) == [1.5, None, 1.0]
    if chain.feast.redis:
        client = redis_client.Redis.from_url(chain.feast.redis)
        assert not [one for one in client.scan_iter() if client.hexists(one, f"_ts:{older}")]
    chain.spec = SPEC
    assert changes(run(chain)) == (40, 0), "the contract came back"
