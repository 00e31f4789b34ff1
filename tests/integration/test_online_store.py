"""What is written to the online store, and deleted from it, on SQLite and Redis."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import multiprocessing
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import redis as redis_client

from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.materialization import update_online
from platform_assets.features.reading import read_source
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import write_feature_data
from platform_assets.model_spec import (
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.resources.feast_online import OnlineView
from platform_assets.resources.mlflow import RegistryError
from platform_assets.resources.redis_address import require_redis
from platform_assets.serving.view_retention import delete_unread_views
from serving_gateway.contract import DType
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.types import LookupResult, Status
from tests.support.feature_chain import ONLINE, FeatureChain, FeatureOutcome, feature_chain
from tests.support.feature_lookups import read
from tests.support.servers import RunningRedis, free_port, run_redis

SPEC = ModelSpec(
    model_name="visits",
    task=Task.BINARY,
    source=Source("${SOURCE_PATH}"),
    features=(FeatureSpec("x"), FeatureSpec("note", DType.BYTES, nullable=True)),
    target=Target("y", DType.BYTES),
    candidates=(),
    gates=Gates(metric_floor=0.5),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    join_key=JoinKey("id"),
    event_time=EventTime("seen", timezone="UTC"),
)
WIDER = dataclasses.replace(SPEC, features=(*SPEC.features, FeatureSpec("z")))
HEADER = "id,seen,x,note,z,y"


def _lines(ids: range, day: int = 1, x: float = 0.5) -> list[str]:
    return [
        f"{one},2024-03-{day:02d},{one + x},{'' if one % 3 else 'n'},1,{'yes' if one % 2 else 'no'}"
        for one in ids
    ]


async def _asked(feast: FeastResource, *ids: int) -> list[LookupResult]:
    """What the gateway reads."""
    store = FeastStore(feast.home)
    try:
        await store.prepare(SPEC.feature_service)
        return await read(store, SPEC.feature_service, ("x",), ids)
    finally:
        await store.aclose()


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


def _chain(home: Path, store: str = "", spec: ModelSpec = SPEC) -> FeatureChain:
    chain = feature_chain(home, redis=store, spec=spec)
    _write(chain, _lines(range(40)))
    return chain


@pytest.fixture
def chain(store: str, tmp_path: Path) -> FeatureChain:
    return _chain(tmp_path, store)


def _write(chain: FeatureChain, lines: list[str]) -> None:
    chain.source.write_text("\n".join([HEADER, *lines]) + "\n")


def _run(chain: FeatureChain) -> FeatureOutcome:
    outcome = chain.run()
    assert outcome.failures == {}
    assert all(check.passed for check in outcome.checks.values()), outcome.checks
    return outcome


def _changes(outcome: FeatureOutcome) -> tuple[int, int]:
    made = outcome.metadata[ONLINE]
    return made["rows_written"].value, made["rows_deleted"].value


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
    assert _changes(_run(chain)) == (40, 0)
    writes = _Writes(chain)
    assert _changes(_run(chain)) == (0, 0)
    assert not writes.any
    _write(chain, _lines(range(39, -1, -1)))
    assert _changes(_run(chain)) == (0, 0), "rows in another order"
    _write(chain, [*_lines(range(40)), *_lines(range(1), day=2)])
    assert _changes(_run(chain)) == (1, 0)
    assert writes.any


def test_first_missing_value_of_a_feature_is_one_change(tmp_path: Path) -> None:
    chain = _chain(tmp_path)
    lines = [line.replace(",,", ",n,") for line in _lines(range(40))]
    _write(chain, lines)
    _run(chain)
    _write(chain, [lines[0].replace(",n,", ",,"), *lines[1:]])
    assert _changes(_run(chain)) == (1, 0)


def test_only_the_difference_is_written_and_what_left_the_source_is_deleted(
    chain: FeatureChain,
) -> None:
    _run(chain)
    lines = _lines(range(40))
    lines[7] = _lines(range(7, 8), x=0.75)[0]
    del lines[5]
    _write(chain, [*lines, *_lines(range(50, 53))])
    assert _changes(_run(chain)) == (4, 1)
    assert chain.online(7)[0] == 7.75
    assert chain.online(50) == [50.5, None]
    [gone] = chain.feast.online(SPEC.feature_view).read([5])
    assert (gone.observed_at, gone.values) == (None, {})
    statuses = [one.status for one in asyncio.run(_asked(chain.feast, 5, 7))]
    assert statuses == [Status.UNKNOWN, Status.FOUND], "of the gateway"
    kept = [*chain.feast.data_dir.joinpath("visits", "online").glob("*.parquet")]
    assert len(kept) == 1, "a record of what was deleted is not kept either"


def test_an_entity_that_left_disappears_from_the_views_of_older_versions(
    chain: FeatureChain,
) -> None:
    _run(chain)
    chain.spec = WIDER
    _write(chain, _lines(range(1, 40), x=0.75))
    assert _changes(_run(chain)) == (39, 1)
    older = chain.feast.online(SPEC.feature_view).read([0, 1])
    assert [row.values.get("x") for row in older] == [None, 1.5]
    assert _changes(_run(chain)) == (0, 0)


def test_models_that_share_keys_lose_only_their_own(chain: FeatureChain, store: str) -> None:
    other = _chain(chain.home / "other", store, dataclasses.replace(SPEC, model_name="calls"))
    other.feast = chain.feast
    _run(chain)
    _run(other)
    _write(other, _lines(range(10, 40)))
    assert _changes(_run(other)) == (0, 10)
    assert chain.online(0) == [0.5, "n"]
    if store:
        chain_only = redis_client.Redis.from_url(store)
        assert chain_only.dbsize() == 40 + 2, "entities, and what was written last"


def test_entities_of_a_release_that_kept_no_record_are_deleted(chain: FeatureChain) -> None:
    _run(chain)
    view = chain.feast.online(SPEC.feature_view)
    view.mark("")
    for record in chain.feast.data_dir.joinpath("visits", "online").glob("*"):
        record.unlink()
    _write(chain, _lines(range(3, 40)))
    assert _changes(_run(chain)) == (37, 3)
    assert [row.observed_at is None for row in view.read([2, 3])] == [True, False]


def _empty(chain: FeatureChain) -> None:
    if chain.feast.redis:
        redis_client.Redis.from_url(chain.feast.redis).flushall()
        return
    for file in chain.feast.home.glob("online.db*"):
        file.unlink()


def test_a_store_that_was_emptied_is_filled_again(chain: FeatureChain) -> None:
    _run(chain)
    _empty(chain)
    assert _changes(_run(chain)) == (40, 0)
    assert chain.online(1)[0] == 1.5


def test_values_that_were_lost_fail_the_check_and_come_back_with_the_next_run(
    chain: FeatureChain,
) -> None:
    _run(chain)
    chain.feast.online(SPEC.feature_view).delete([3])
    outcome = chain.run()
    check = outcome.checks["online_features.online_equals_offline"]
    assert not check.passed
    assert "materialize online_features again" in (check.description or "")
    assert "id 3, x: offline 3.5, online None" in str(check.metadata["examples"].value)
    assert _changes(_run(chain)) == (40, 0)
    assert chain.online(3)[0] == 3.5


def test_a_run_that_died_while_it_wrote_leaves_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that it wrote may be those of a source that has been corrected since."""
    chain = _chain(tmp_path)
    _run(chain)

    def write(self: OnlineView, batches: Any) -> int:
        genuine(self, batches)
        raise FeatureStoreError("the connection was lost")

    genuine = OnlineView.write
    with monkeypatch.context() as patch:
        patch.setattr(OnlineView, "write", write)
        _write(chain, _lines(range(40), x=0.75))
        assert "connection was lost" in chain.run().failures[ONLINE]
    assert chain.online(1)[0] == 1.75
    _write(chain, _lines(range(40)))
    assert _changes(_run(chain)) == (40, 0)
    assert chain.online(1)[0] == 1.5


def test_entities_older_than_the_ttl_do_not_stop_the_chain(tmp_path: Path) -> None:
    """They are compared at their own time, and counted: the gateway does not serve them."""
    chain = _chain(tmp_path, spec=dataclasses.replace(SPEC, ttl=timedelta(days=30)))
    today = datetime.now(UTC).date() - timedelta(days=1)
    recent = [line.replace("2024-03-01", str(today)) for line in _lines(range(1, 40))]
    _write(chain, [*_lines(range(1)), *recent])
    outcome = _run(chain)
    compared = outcome.checks["online_features.online_equals_offline"].metadata
    assert compared["entities_sampled"].value == 40
    assert compared["entities_expired"].value == 1


def test_a_time_that_is_not_the_entity_s_newest_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway would let it expire too early."""
    chain = _chain(tmp_path)
    genuine = OnlineView.read

    def older(self: OnlineView, ids: Any) -> Any:
        return [
            row._replace(observed_at=row.observed_at and row.observed_at - timedelta(days=1))
            for row in genuine(self, ids)
        ]

    monkeypatch.setattr(OnlineView, "read", older)
    check = chain.run().checks["online_features.online_equals_offline"]
    assert check.metadata["values_differing"].value == 40


def test_reads_wait_for_no_writer_and_writers_as_long_as_it_takes(tmp_path: Path) -> None:
    chain = _chain(tmp_path)
    _run(chain)
    with closing(sqlite3.connect(chain.feast.home / "online.db")) as writer:
        # What a transaction takes that has outgrown the page cache.
        writer.execute("BEGIN EXCLUSIVE")
        [found] = asyncio.run(_asked(chain.feast, 1))
        assert found.values == [1.5]
    _write(chain, _lines(range(40), x=0.75))
    held = threading.Event()

    def hold() -> None:
        with (
            closing(sqlite3.connect(chain.feast.home / "online.db")) as online,
            closing(sqlite3.connect(chain.feast.home / "registry.db")) as registry,
        ):
            for database in (online, registry):
                database.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(6)  # longer than SQLite waits by itself

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert _changes(_run(chain)) == (40, 0)
    thread.join()


def _materialize(home: Path, name: str) -> str:
    spec = dataclasses.replace(SPEC, model_name=name)
    chain = _chain(home / name, spec=spec)
    chain.feast = FeastResource(state_dir=str(home / "feast"))
    _write(chain, _lines(range(20_000)))
    return str(chain.run().failures)


def test_chains_of_several_models_start_at_once_on_a_new_store(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        assert [*pool.map(_materialize, [tmp_path] * 3, names)] == ["{}"] * 3
    feast = FeastResource(state_dir=str(tmp_path / "feast"))
    for name in names:
        spec = dataclasses.replace(SPEC, model_name=name)
        assert feast.views(name) == [spec.feature_view]
        [row] = feast.online(spec.feature_view).read([19_999])
        assert row.values["x"] == 19_999.5


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
    _run(chain)
    chain.spec = WIDER
    _run(chain)
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
    assert _changes(_run(chain)) == (40, 0), "the contract came back"


def test_files_of_two_writers_with_one_process_id_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every container's main process has number 1; the volume is shared."""
    chain = _chain(tmp_path)
    staged: list[str] = []
    replace = Path.replace

    def recording(self: Path, target: Any) -> Path:
        staged.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recording)
    for _ in range(2):
        write_feature_data(read_source(SPEC, chain.resource), SPEC, chain.feast.data_dir)
    chain.feast.render()
    assert len(staged) == 5
    assert len({*staged}) == 5
    assert not any(f".{one}." in name for name in staged for one in ("1", str(_own_id())))


def _own_id() -> int:
    return multiprocessing.current_process().pid or 0


@pytest.mark.needs("redis-server")
def test_redis_without_scripts_serves_the_whole_chain(tmp_path: Path) -> None:
    """Some managed services take EVAL away, and dangerous commands with it."""
    with run_redis(tmp_path / "redis") as running:
        with redis_client.Redis(port=running.port) as admin:
            rights = ("+@read", "+@write", "+@connection", "-@scripting", "-@dangerous")
            admin.execute_command("ACL", "SETUSER", "feast", "on", ">pw", "~*", *rights)
            admin.execute_command("ACL", "SETUSER", "default", "off")
        chain = _chain(tmp_path, f"redis://feast:pw@127.0.0.1:{running.port}/0")
        _run(chain)
        _write(chain, _lines(range(1, 40)))
        assert _changes(_run(chain)) == (0, 1)
        [found] = asyncio.run(_asked(chain.feast, 1))
        assert found.values == [1.5]
        chain.feast.delete_service(SPEC.feature_view)


@pytest.mark.needs("redis-server")
def test_feast_and_the_gateway_reach_redis_by_the_same_address(tmp_path: Path) -> None:
    """By TLS with an authority of its own, IPv6, a socket, and a password with a comma."""
    authority, key, path = (tmp_path / name for name in ("ca.pem", "key.pem", "redis.sock"))
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = "subjectAltName=IP:127.0.0.1,IP:::1"
    files = ["-keyout", str(key), "-out", str(authority)]
    subprocess.run(
        [*make.split(), "-subj", "/CN=redis", "-addext", names, *files],
        check=True,
        capture_output=True,
    )
    tls = free_port()
    options = {
        "requirepass": "ab,cd",
        "unixsocket": path,
        "tls-port": tls,
        "tls-cert-file": authority,
        "tls-key-file": key,
        "tls-auth-clients": "no",
    }
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with run_redis(tmp_path / "redis", *given, "--bind", "127.0.0.1", "::1") as running:
        urls = (
            f"redis://:ab%2Ccd@127.0.0.1:{running.port}/1",
            f"redis://:ab%2Ccd@[::1]:{running.port}/1",
            f"rediss://:ab%2Ccd@[::1]:{tls}/1?ssl_ca_certs={authority}",
            f"unix://:ab%2Ccd@{path}?db=1",
        )
        for number, url in enumerate(urls):
            require_redis(url)
            chain = _chain(tmp_path / f"chain-{number}", url)
            _apply_and_write(chain)
            [found] = asyncio.run(_asked(chain.feast, 1))
            assert found.values == [1.5], url


def _apply_and_write(chain: FeatureChain) -> None:
    chain.feast.apply(feast_definitions(chain.spec, chain.feast.data_dir))
    source = read_source(chain.spec, chain.resource)
    data = write_feature_data(source, chain.spec, chain.feast.data_dir)
    update_online(chain.feast, data, chain.spec, Progress(None))
