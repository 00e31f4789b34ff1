"""The gateway's reading of real Feast online stores: SQLite and Redis, and losing them."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from redis import Redis

from platform_assets.resources.feast import FeastResource
from serving_gateway.errors import FeaturesUnavailable, GatewayError, InvalidInput
from serving_gateway.features.blocking_reader import _rows as read_rows
from serving_gateway.features.feast_definitions import open_plans
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import (
    InvalidEntityIds,
    KeyMismatch,
    LookupResult,
    ServiceUnusable,
    Status,
)
from tests.support.feature_lookups import look_up, read
from tests.support.servers import RunningRedis, run_redis

ROOT = Path(__file__).resolve().parents[2]
SINCE = datetime(2020, 1, 1, tzinfo=UTC)
CONSTANTS = {
    "retry_seconds": "feast_store._RETRY_SECONDS",
    "refresh_seconds": "feast_store._REFRESH_SECONDS",
    "socket_seconds": "feast_redis.SOCKET_SECONDS",
}
NAMES = ("petal_width", "sepal_length", "sepal_width")
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float32, Float64, Int64, String

flower = Entity(name="flower", join_keys=["entity_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)


def view(name, entity, *fields, ttl=timedelta(0)):
    source = FileSource(
        name=f"{name}_source",
        path=f"{DATA}/{name}.parquet",
        timestamp_field="event_timestamp",
    )
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields]
    return FeatureView(name=name, entities=[entity], ttl=ttl, schema=schema, source=source)


sepals = view("sepals", flower, ("sepal_length", Float32), ("sepal_width", Float32))
petals = view(
    "petals", flower, ("petal_width", Float64), ("petals", Int64), ttl=timedelta(days=1)
)
others = view("others", flower, ("sepal_length", Float32), ("more", Array(Float32)))
shops = view("shops", shop, ("turnover", Float64), ("city", String))

both = FeatureService(name="both", features=[petals, sepals])
short = FeatureService(name="short", features=[petals[["petal_width"]]])
named = FeatureService(name="named", features=[sepals.with_name("mine"), others])
mapped = FeatureService(
    name="mapped",
    features=[
        sepals.with_join_key_map({"entity_id": "plant"}),
        petals.with_join_key_map({"entity_id": "plant"}),
    ],
)
crossed = FeatureService(
    name="crossed", features=[sepals.with_join_key_map({"entity_id": "plant"}), petals]
)
mixed = FeatureService(name="mixed", features=[sepals, shops])
text = FeatureService(name="text", features=[shops])
"""


def _frame(key: str, ids: list[Any], ages_days: list[float], **columns: Any) -> pd.DataFrame:
    now = datetime.now(UTC)
    stamps = [now - timedelta(days=age) for age in ages_days]
    return pd.DataFrame(
        {key: ids, "event_timestamp": pd.to_datetime(stamps, utc=True).as_unit("us"), **columns}
    )


def _fill(feast: FeastResource) -> None:
    """Rows: 1 and 2 complete, 3 with old petals, 4 with null, 5 without petals, 6 all null."""
    feast.data_dir.mkdir(parents=True, exist_ok=True)
    fine = [400.0] * 5
    frames = {
        "sepals": _frame(
            "entity_id",
            [1, 2, 3, 4, 5],
            fine,
            sepal_length=pd.Series([5.1, 4.9, 4.7, None, 5.0], dtype="float32"),
            sepal_width=pd.Series([3.5, 3.0, 3.2, 3.1, 3.6], dtype="float32"),
        ),
        "petals": _frame(
            "entity_id",
            [1, 2, 3, 4, 6],
            [0.1, 0.2, 2.0, 0.1, 0.1],
            petal_width=[0.2, 0.25, 0.3, 0.4, None],
            petals=pd.array([5, 6, 7, 8, None], dtype="Int64"),
        ),
        "others": _frame(
            "entity_id",
            [1],
            [1.0],
            sepal_length=pd.Series([9.5], dtype="float32"),
            more=[[1.0, 2.0]],
        ),
        "shops": _frame(
            "shop", ["Köln", "7"], [1.0, 1.0], turnover=[1.5, 2.5], city=["Köln", None]
        ),
    }
    for name, frame in frames.items():
        frame.to_parquet(feast.data_dir / f"{name}.parquet")
    _apply(feast)
    for name in frames:
        _materialize(feast, name)


def _apply(feast: FeastResource, definitions: str = DEFINITIONS) -> None:
    names: dict[str, Any] = {"DATA": str(feast.data_dir)}
    exec(definitions, names)
    kinds = {"Entity", "FileSource", "FeatureView", "FeatureService"}
    objects = [one for one in names.values() if type(one).__name__ in kinds]
    feast.apply([one for one in objects if hasattr(one, "name")])


def _online(feast: FeastResource, ids: list[int], service: str) -> pd.DataFrame:
    """What Feast itself answers."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(feast.home), fs_yaml_file=feast.render())
    rows = [{"entity_id": one} for one in ids]
    asked = store.get_online_features(features=store.get_feature_service(service), entity_rows=rows)
    return pd.DataFrame(asked.to_dict(), dtype=object)


def _materialize(feast: FeastResource, view: str) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(feast.home), fs_yaml_file=feast.render())
    store.materialize(SINCE, datetime.now(UTC) + timedelta(minutes=1), feature_views=[view])


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with run_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> FeastResource:
    """A store of each kind; leave it as it is."""
    home = tmp_path_factory.mktemp(request.param)
    url = request.getfixturevalue("redis").url if request.param == "redis" else ""
    feast = FeastResource(
        state_dir=str(home / "feast"),
        online_store=request.param,
        redis=url,
    )
    _fill(feast)
    return feast


@asynccontextmanager
async def opened(feast: FeastResource, *services: str, **seconds: float) -> Any:
    """A store; `seconds`: of `CONSTANTS`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seconds.items():
            patch.setattr(f"serving_gateway.features.{CONSTANTS[name]}", value)
        store = FeastStore(feast.home)
        try:
            for service in services:
                await store.prepare(service)
            yield store
        finally:
            await store.aclose()


async def until(
    attempt: Callable[[], Awaitable[Any]], good: Callable[[Any], bool], seconds: float = 10
) -> Any:
    """Repeat an attempt until its answer (None for an error of ours) is good."""
    deadline = time.monotonic() + seconds
    while True:
        answer: Any = None
        error: GatewayError | None = None
        try:
            answer = await attempt()
        except GatewayError as caught:
            error = caught
        if good(answer):
            return answer
        assert time.monotonic() < deadline, error or answer
        await asyncio.sleep(0.02)


def _statuses(found: list[LookupResult]) -> list[str]:
    return [one.status.value for one in found]


async def test_values_are_those_of_feast_itself(filled: FeastResource) -> None:
    ids = [2, 1]
    frame = _online(filled, ids, "both")
    async with opened(filled, "both") as store:
        for names in (NAMES, NAMES[::-1], ("sepal_width",), ("petals", "petal_width")):
            answer = await read(store, "both", names, ids)
            assert [one.values for one in answer] == frame[list(names)].to_numpy().tolist()
            assert _statuses(answer) == ["found", "found"]
        [one] = await read(store, "both", NAMES, [1])
        stamp = datetime.fromisoformat(one.event_timestamp or "")
        assert abs(datetime.now(UTC) - timedelta(days=400) - stamp) < timedelta(minutes=5)


async def test_missing_features_of_a_row_are_named(filled: FeastResource) -> None:
    async with opened(filled, "both") as store:
        answer = await read(store, "both", NAMES, [1, 99, 3, 4, 5, 6])
    assert _statuses(answer) == [
        *("found", "unknown", "expired", "incomplete", "incomplete", "incomplete")
    ]
    assert [one.values is None for one in answer] == [False, *[True] * 5]
    assert [one.missing for one in answer] == [
        (),
        NAMES,
        ("petal_width",),
        ("sepal_length",),
        ("petal_width",),
        NAMES,
    ]
    async with opened(filled, "both") as store:
        nullable = frozenset({"sepal_length", "petal_width", "sepal_width"})
        again = await read(store, "both", NAMES, [1, 99, 3, 4, 5, 6], nullable)
    assert _statuses(again) == ["found", "unknown", "expired", "found", "found", "found"]
    assert [again[3].values, again[5].values] == [[0.4, None, pytest.approx(3.1)], [None] * 3]
    assert answer[1].event_timestamp is None
    assert answer[2].event_timestamp is not None


async def test_views_that_are_not_requested_are_not_judged(filled: FeastResource) -> None:
    async with opened(filled, "both", "short") as store:
        assert _statuses(await read(store, "both", ("sepal_width",), [3, 4, 5])) == ["found"] * 3
        assert _statuses(await read(store, "short", ("petal_width",), [1, 3, 5])) == [
            *("found", "expired", "unknown")
        ]


async def test_string_ids(filled: FeastResource) -> None:
    async with opened(filled, "text") as store:
        answer = await read(store, "text", ("city", "turnover"), ["Köln", "7", "köln"])
        assert answer[0].values == ["Köln", 1.5]
        assert answer[1].missing == ("city",)
        assert answer[2].status is Status.UNKNOWN
        for wrong in (7, "\ud800"):
            with pytest.raises(InvalidInput) as caught:
                await read(store, "text", ("city",), ["7", wrong])
            assert caught.value.field == "entity_ids[1]"
            assert "must be a string" in caught.value.message


@pytest.mark.parametrize("wrong", ["1", "x", 1 << 63, -(1 << 63) - 1])
async def test_integer_ids(filled: FeastResource, wrong: int | str) -> None:
    async with opened(filled, "short") as store:
        extremes = await read(store, "short", ("petal_width",), [(1 << 63) - 1, -(1 << 63)])
        assert _statuses(extremes) == ["unknown", "unknown"]
        with pytest.raises(InvalidInput, match=r"entity_ids\[1\] must be an integer of 64 bits"):
            await read(store, "short", ("petal_width",), [1, wrong])


async def test_aliases_and_mapped_join_keys(filled: FeastResource) -> None:
    async with opened(filled, "named", "mapped") as store:
        names = ("others__sepal_length", "mine__sepal_length", "sepal_width")
        [answer] = await read(store, "named", names, [1])
        assert answer.values == pytest.approx([9.5, 5.1, 3.5])
        for name in ("sepal_length", "more", "sepals__sepal_length"):
            with pytest.raises(ServiceUnusable, match=f"no feature {name} "):
                await read(store, "named", (name,), [1])
        [answer] = await read(store, "mapped", ("sepal_width", "petals"), [2])
        assert answer.values == [3.0, 6]


async def test_several_keys_are_read_together(filled: FeastResource) -> None:
    names = ("turnover", "sepal_width", "city", "sepal_length")
    keys = ("shop", "entity_id")
    async with opened(filled, "mixed") as store:
        found = await read(
            store, "mixed", names, [("Köln", 2), ("7", 1), ("Köln", 99), (None, 1)], keys=keys
        )
        assert _statuses(found) == ["found", "incomplete", "unknown", "unnamed"]
        assert found[0].values == [1.5, 3.0, "Köln", pytest.approx(4.9)]
        assert found[1].stored == [2.5, 3.5, None, pytest.approx(5.1)]
        gaps = [(one.gaps[0].key, one.gaps[0].views, one.missing) for one in found[1:]]
        assert gaps == [
            ("shop", ("shops",), ("city",)),
            ("entity_id", ("sepals",), ("sepal_width", "sepal_length")),
            ("shop", ("shops",), ("turnover", "city")),
        ]
        stamp = datetime.fromisoformat(found[0].event_timestamp or "")
        assert abs(datetime.now(UTC) - timedelta(days=400) - stamp) < timedelta(minutes=5)
        [none] = await read(store, "mixed", names, [(None, None)], keys=keys)
        assert none.missing == ("turnover", "city", "sepal_width", "sepal_length")
        with pytest.raises(InvalidInput, match="an integer of 64 bits") as caught:
            await read(store, "mixed", names, [("Köln", 2), ("Köln", "2")], keys=keys)
        assert isinstance(caught.value, InvalidEntityIds)
        assert caught.value.key == "entity_id"


async def test_one_stored_key_may_be_several_of_the_request(filled: FeastResource) -> None:
    names = ("petals", "sepal_width")
    async with opened(filled, "crossed") as store:
        found = await read(store, "crossed", names, [(1, 2), (2, 1)], keys=("plant", "entity_id"))
        assert [one.values for one in found] == [[6, 3.5], [5, 3.0]]


async def test_features_read_by_other_keys_are_reported(filled: FeastResource) -> None:
    async with opened(filled, "mixed") as store:
        names = ("sepal_width", "city")
        for keys in ((), ("shop",)):
            with pytest.raises(KeyMismatch, match="service mixed is read by entity_id, shop"):
                await read(store, "mixed", names, [1], keys=keys)
        with pytest.raises(ServiceUnusable, match="nothing"):
            await read(store, "nothing", ("sepal_width",), [1])
        assert await read(store, "mixed", ("sepal_width",), [1])


@pytest.mark.parametrize("filled", ["redis"], indirect=True)
async def test_views_of_one_key_are_one_command_to_redis(filled: FeastResource) -> None:
    async with opened(filled, "both", "mixed", "crossed") as store:
        hashes = {
            service: [len(own.read.hashes) for own in plan.read(plan.sample()).keys]
            for service, plan in store._plans.items()
        }
    assert hashes == {"both": [1], "mixed": [1, 1], "crossed": [1, 1]}


async def test_features_applied_later_are_noticed(tmp_path: Path) -> None:
    feast = FeastResource(state_dir=str(tmp_path / "feast"))
    _fill(feast)
    async with opened(feast, "short", retry_seconds=0.05, refresh_seconds=0.05) as store:
        with pytest.raises(ServiceUnusable, match="no feature petals "):
            await read(store, "short", ("petals",), [1])
        _apply(feast, DEFINITIONS.replace('[petals[["petal_width"]]]', "[petals]"))
        found = await until(lambda: read(store, "short", ("petals",), [1]), bool)
        assert found[0].values == [5]
        _apply(feast, DEFINITIONS.replace("days=1", "days=10"))
        assert await until(
            lambda: read(store, "short", ("petal_width",), [3]), lambda now: now[0].values == [0.3]
        ), "the new TTL counts"


async def test_store_that_does_not_exist_yet_is_used_once_it_does(tmp_path: Path) -> None:
    feast = FeastResource(state_dir=str(tmp_path / "feast"))
    async with opened(feast, "short", retry_seconds=0.05) as store:
        with pytest.raises(FeaturesUnavailable, match="no feature store yet"):
            await read(store, "short", ("petal_width",), [1])
        feast.render()
        with pytest.raises(FeaturesUnavailable, match=r"no feature store yet|being opened"):
            await read(store, "short", ("petal_width",), [1])
        await store.prepare("short")
        assert not (feast.home / "online.db").exists()
        assert not (feast.home / "registry.db").exists(), "nothing is made in its place"
        _fill(feast)
        found = await until(lambda: read(store, "short", ("petal_width",), [1]), bool)
        assert found[0].values == [0.2]


async def test_unreadable_configuration_is_reported_without_its_secrets(
    tmp_path: Path,
) -> None:
    home = tmp_path / "feast"
    home.mkdir()
    (home / "feature_store.yaml").write_text(
        "project: p\nprovider: local\nregistry: r.db\n"
        "online_store:\n  type: redis\n  connection_string: [h, password=s3cret]\n"
    )
    store = FeastStore(home)
    try:
        await store.prepare("short")
        with pytest.raises(FeaturesUnavailable, match="could not open") as caught:
            await read(store, "short", ("petal_width",), [1])
        assert "s3cret" not in caught.value.message
    finally:
        await store.aclose()


async def test_prepared_service_is_read_within_the_limit_of_a_look_up(
    filled: FeastResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while definitions take longer to open than a look-up may take."""

    def slowly(*args: Any) -> Any:
        time.sleep(0.3)
        return open_plans(*args)

    async with opened(filled) as store:
        await store.prepare()
        monkeypatch.setattr("serving_gateway.features.feast_store.open_plans", slowly)
        reader = FeatureReader(store, limit_seconds=0.1)
        with pytest.raises(FeaturesUnavailable, match="within"):
            await look_up(reader, "short", ("petal_width",), [1])
        opening = asyncio.create_task(store.prepare("text"))
        await asyncio.sleep(0.05)
        await asyncio.gather(opening, reader.prepare("both"))
        [found] = await look_up(reader, "both", ("petal_width",), [1])
        assert found.values == [0.2], "a service that an opening under way did not know of"


def _clients(url: str) -> list[str]:
    """The connections of a Redis, but for the one that asks."""
    with Redis.from_url(url) as admin:
        own = admin.client_id()
        return [one["id"] for one in admin.client_list() if int(one["id"]) != own]


async def test_slow_reads_of_one_service_do_not_delay_another(
    filled: FeastResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()

    def rows(store: Any, planned: Any, *own: Any) -> Any:
        if planned.request.service == "both":
            hang.wait(20)
        return read_rows(store, planned, *own)

    monkeypatch.setattr("serving_gateway.features.feast_store._TRIAL_SECONDS", 0.05)
    async with opened(filled, "both") as store:
        monkeypatch.setattr("serving_gateway.features.blocking_reader._rows", rows)
        async with asyncio.timeout(10):
            await store.prepare("short")
        slow = [asyncio.create_task(read(store, "both", (name,), [1])) for name in NAMES]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert _statuses(await read(store, "short", ("petal_width",), [1])) == ["found"]
        if filled.online_store != "redis":
            assert not any(task.done() for task in slow)
        hang.set()
        for task in slow:
            assert _statuses(await task) == ["found"]


async def test_broken_definition_affects_its_own_service_only(
    filled: FeastResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore

    known = FeatureStore.get_feature_service

    def get(self: Any, name: str, *args: Any, **options: Any) -> Any:
        if name == "text":
            raise ValueError("a corrupt row of the registry")
        return known(self, name, *args, **options)

    async with opened(filled, "text", refresh_seconds=0, retry_seconds=0) as store:
        former = store._plans
        monkeypatch.setattr(FeatureStore, "get_feature_service", get)
        await read(store, "text", ("city",), ["7"])
        await until(_async(lambda: store._plans), lambda now: now is not former)
        [one] = await read(store, "text", ("turnover",), ["7"])
        assert one.values == [2.5], "what was known before stays"
    async with opened(filled, "short", "text") as store:
        assert _statuses(await read(store, "short", ("petal_width",), [1])) == ["found"]
        with pytest.raises(FeaturesUnavailable, match="service text up: ValueError: a corrupt"):
            await read(store, "text", ("city",), ["7"])


@pytest.mark.parametrize("filled", ["redis"], indirect=True)
async def test_key_that_holds_no_hash_fails_its_own_look_up_only(
    redis: RunningRedis, filled: FeastResource
) -> None:
    async with opened(filled, "short", "both") as store:
        plan = store._plans["short"]
        [own] = plan.read(plan.sample()).keys
        key = own.read.hashes[0].command(77).split(b"\r\n")[4]
        reader = FeatureReader(store, limit_seconds=10)
        names = ("petal_width",)
        with Redis.from_url(redis.url) as admin:
            admin.set(key, "not a hash")
            first = asyncio.create_task(look_up(reader, "short", names, [2]))
            bad = asyncio.create_task(look_up(reader, "short", names, [1, 77]))
            good = asyncio.create_task(look_up(reader, "short", names, [1]))
            assert _statuses(await first + await good) == ["found", "found"]
            with pytest.raises(FeaturesUnavailable, match="WRONGTYPE"):
                await bad
            with pytest.raises(FeaturesUnavailable, match="WRONGTYPE"):
                await look_up(reader, "both", NAMES, [77])
            admin.delete(key)
        assert reader.skipped_services == []


@pytest.mark.parametrize("filled", ["redis"], indirect=True)
async def test_redis_without_eval_is_supported(redis: RunningRedis, filled: FeastResource) -> None:
    with Redis.from_url(redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-@scripting")
        try:
            async with opened(filled, "both") as store:
                assert _statuses(await read(store, "both", NAMES, [1, 2])) == ["found", "found"]
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "+@all")


@pytest.mark.parametrize("filled", ["redis"], indirect=True)
async def test_no_connection_is_left_after_the_end(
    redis: RunningRedis, filled: FeastResource
) -> None:
    """Of reads that were under way, and of those that come later."""
    before = _clients(redis.url)
    async with opened(filled, "both", socket_seconds=5) as store:
        assert len(_clients(redis.url)) == len(before) + 1
        redis.process.signal(signal.SIGSTOP)
        under_way = [asyncio.create_task(read(store, "both", (name,), [1])) for name in NAMES]
        await asyncio.sleep(0.05)
        await store.aclose()
        redis.process.signal(signal.SIGCONT)
        late = [asyncio.create_task(read(store, "both", (name,), [1])) for name in NAMES]
        ended = await asyncio.gather(*under_way, *late, return_exceptions=True)
        assert [type(one) for one in ended] == [FeaturesUnavailable] * 6
    await until(_async(lambda: _clients(redis.url)), lambda now: now == before)


@pytest.mark.parametrize("filled", ["redis"], indirect=True)
async def test_refresh_keeps_the_connection(redis: RunningRedis, filled: FeastResource) -> None:
    async with opened(filled, "both", refresh_seconds=0) as store:
        clients = _clients(redis.url)
        former = store._plans
        await read(store, "both", NAMES, [1])
        await until(_async(lambda: store._plans), lambda now: now is not former)
        assert _statuses(await read(store, "both", NAMES, [1])) == ["found"]
        assert _clients(redis.url) == clients


def _async(value: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def attempt() -> Any:
        return value()

    return attempt


def test_hanging_feast_does_not_keep_the_process_from_exiting(tmp_path: Path) -> None:
    code = """
import asyncio, pathlib, sys, time
from serving_gateway.features import feast_store
feast_store.open_plans = lambda *_: time.sleep(60)

async def main():
    store = feast_store.FeastStore(pathlib.Path("nowhere"))
    opening = asyncio.create_task(store.prepare("s"))
    await asyncio.sleep(0.1)
    opening.cancel()
    await store.aclose()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


def _open_files(path: Path) -> int:
    """How often this process has a file open."""
    links = Path("/proc/self/fd").iterdir()
    return sum(1 for one in links if os.path.realpath(one) == str(path))


def _threads() -> int:
    return sum(1 for thread in threading.enumerate() if thread.name.startswith("features"))


async def test_trial_read_makes_the_connection(filled: FeastResource, tmp_path: Path) -> None:
    # A copy, whose files nothing else in this process opens, or closes meanwhile.
    feast = FeastResource(
        state_dir=str(tmp_path / "feast"), online_store=filled.online_store, redis=filled.redis
    )
    gc.collect()  # A connection that is collected during the copy takes its files away.
    shutil.copytree(filled.home, feast.home)
    feast.render()
    online = (feast.home / "online.db").resolve()
    async with opened(feast, "both") as store:
        redis = store._redis._pipeline
        assert _open_files(online) if redis is None else redis.is_connected
    await until(_async(_threads), lambda now: now == 0)
    assert not _open_files(online), "its thread closes it"


async def test_replaced_online_store_is_opened_again(tmp_path: Path) -> None:
    feast = FeastResource(state_dir=str(tmp_path / "feast"))
    _fill(feast)
    async with opened(feast, "short", refresh_seconds=0.05) as store:
        assert (await read(store, "short", ("petal_width",), [1]))[0].values == [0.2]
        (feast.home / "online.db").unlink()
        (feast.home / "registry.db").unlink()
        _apply(feast)
        await until(
            lambda: read(store, "short", ("petal_width",), [1]),
            lambda now: now is not None and now[0].status is Status.UNKNOWN,
        )


def _redis_store(tmp_path: Path, redis: RunningRedis) -> FeastResource:
    feast = FeastResource(
        state_dir=str(tmp_path / "feast"),
        online_store="redis",
        redis=redis.url,
    )
    _fill(feast)
    return feast


@pytest.mark.needs("redis-server")
async def test_redis_that_hangs_or_dies_costs_little_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_gateway.features.feast_redis.SOCKET_SECONDS", 0.2)
    with run_redis(tmp_path / "redis") as redis:
        feast = _redis_store(tmp_path, redis)
        store = FeastStore(feast.home)
        reader = FeatureReader(store, limit_seconds=0.1, open_seconds=0.2)
        before = _threads()

        async def look() -> list[LookupResult]:
            return await look_up(reader, "short", ("petal_width",), [1])

        async def is_lost() -> None:
            while not reader.skipped_services:
                asked = [asyncio.create_task(look()) for _ in range(8)]
                started = time.monotonic()
                ended = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(one, FeaturesUnavailable) for one in ended)
                assert time.monotonic() - started < 5
            started = time.monotonic()
            with pytest.raises(FeaturesUnavailable):
                await look()
            assert time.monotonic() - started < 2

        try:
            await store.prepare("short")
            await until(look, bool)
            redis.process.signal(signal.SIGSTOP)
            async with asyncio.timeout(10):
                await is_lost()
            assert _threads() - before <= 2
            started = time.monotonic()
            with pytest.raises(FeaturesUnavailable, match="read the online store"):
                await read(store, "short", ("petal_width",), [1])
            assert time.monotonic() - started < 1.5, "its thread comes back, without more tries"
            redis.process.signal(signal.SIGCONT)
            assert (await until(look, bool, 5))[0].values == [0.2]
            assert reader.skipped_services == []

            redis.process.kill()
            async with asyncio.timeout(10):
                await is_lost()
            redis.process.start()
            [answer] = await until(look, bool, 5)
            assert answer.status is Status.UNKNOWN, "it came back empty"
            _materialize(feast, "petals")
            assert (await look())[0].values == [0.2]
        finally:
            redis.process.signal(signal.SIGCONT)
            await reader.aclose()
