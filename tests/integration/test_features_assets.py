"""Features on the real Feast: SQLite and Redis, any column, every bad source."""

from __future__ import annotations

import dataclasses
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import redis as redis_client
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from platform_assets.features.assets import feature_assets
from platform_assets.features.consistency import compare_online
from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.reading import read_source
from platform_assets.features.source import source_fingerprint
from platform_assets.features.source_asset import source_asset, source_event
from platform_assets.features.storage import write_feature_data
from platform_assets.model_spec import AutomationSpec, FeatureSpec
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.training.frame import training_rows
from serving_gateway.contract import DType
from tests.support.feature_chain import FEATURES, MIXED, ONLINE, FeatureChain, feature_chain
from tests.support.models import IRIS
from tests.support.servers import RunningRedis, free_port, run_redis

DATA_VERSION = "dagster/data_version"
STILL_SERVED = "Nothing changed in serving: GET /models of the gateway says what is in production."


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
    """Iris on each kind of online store."""
    return feature_chain(tmp_path, redis=store)


def _replace(chain: FeatureChain, change: Callable[[list[str]], list[str]]) -> None:
    lines = change(chain.source.read_text().splitlines())
    chain.source.write_text("\n".join(lines) + "\n")


def _online(chain: FeatureChain, entity: int) -> list[float]:
    return [round(value, 2) for value in chain.online(entity)]


def test_features_reach_the_online_store_with_all_checks_green(chain: FeatureChain) -> None:
    outcome = chain.run()
    assert outcome.failures == {}
    assert {name: check.passed for name, check in outcome.checks.items()} == {
        "features.ranges": True,
        "features.losses": True,
        "online_features.online_equals_offline": True,
    }
    compared = outcome.checks["online_features.online_equals_offline"].metadata
    assert compared["values_compared"].value == 600
    assert _online(chain, 1) == [5.1, 3.5, 1.4, 0.2], "the newest of three observations"
    made = outcome.metadata[FEATURES]
    assert made["dagster/row_count"].value == 450
    assert made["rows_per_class"].value == {"setosa": 150, "versicolor": 150, "virginica": 150}
    assert made["target_picture"].value.startswith("![rows by species](data:image/png")


def test_reading_the_source_records_its_content_as_its_data_version(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    versions = []
    for kept in (None, -1):
        _replace(chain, lambda lines, kept=kept: lines[:kept])  # type: ignore[misc] # a default binds it
        content = chain.run(FEATURES).values[FEATURES].fingerprint
        for asset in ("source", FEATURES):
            made = chain.instance.get_latest_materialization_event(dg.AssetKey(IRIS.key(asset)))
            assert made is not None
            assert made.asset_materialization is not None
            versions.append((made.asset_materialization.tags or {})[DATA_VERSION])
        assert versions[-2:] == [content, content]
    assert versions[0] != versions[2]


def test_features_are_out_of_date_exactly_while_the_source_has_other_content(
    tmp_path: Path,
) -> None:
    chain = feature_chain(tmp_path)
    definitions = dg.Definitions(
        [source_asset(IRIS), *feature_assets(IRIS)],
        resources={"source": chain.resource, "feast": chain.feast},
    )
    graph = definitions.resolve_asset_graph()

    def lineage_page_shows() -> StaleStatus:
        loading = LoadingContextForTest(chain.instance)
        resolver = CachingStaleStatusResolver(chain.instance, graph, loading)
        return resolver.get_status(dg.AssetKey(IRIS.key(FEATURES)))

    def sensor_finds(fingerprint: str) -> None:
        chain.instance.report_runless_asset_event(source_event(IRIS, fingerprint))

    chain.run(FEATURES)
    assert lineage_page_shows() is StaleStatus.FRESH
    _replace(chain, lambda lines: lines[:-1])
    sensor_finds(source_fingerprint(IRIS, chain.resource))
    assert lineage_page_shows() is StaleStatus.STALE
    for change in (None, -1):  # first what the sensor has seen, then what it has not
        _replace(chain, lambda lines, kept=change: lines[:kept])  # type: ignore[misc] # a default binds it
        made = chain.run(FEATURES)
        assert set(made.values) == {FEATURES}, "a run does not make the source"
        assert lineage_page_shows() is StaleStatus.FRESH
    chain.run(FEATURES)
    recorded = chain.instance.fetch_materializations(dg.AssetKey(IRIS.key("source")), limit=9)
    assert len(recorded.records) == 3, "one for each content"


def test_every_type_and_its_missing_values_reach_the_online_store(
    store: str, tmp_path: Path
) -> None:
    chain = feature_chain(tmp_path, redis=store, spec=MIXED)
    # The older row of each customer last: the order of the file is not that of time.
    _replace(chain, lambda lines: [lines[0], *lines[:0:-1]])
    outcome = chain.run()
    assert outcome.failures == {}
    assert all(check.passed for check in outcome.checks.values())
    assert chain.online("c-0") == [
        None,
        pytest.approx(0.333),
        None,
        2**60 + 1,
        False,
        True,
        "NA",
        None,
    ]
    assert chain.online("c-1")[0] == 1000.375
    made = outcome.metadata[FEATURES]
    assert made["ignored_columns"].value == ["note"]
    assert made["null_counts"].value["income"] == 8
    assert outcome.values[FEATURES].classes == ("no", "yes")
    assert outcome.values[FEATURES].name == "loans"
    never = tuple(dataclasses.replace(one, nullable=False) for one in MIXED.features)
    strict = dataclasses.replace(MIXED, features=never)
    found = compare_online(chain.feast, outcome.values[FEATURES], strict)
    assert "customer c-0, job: offline None, online None" in found.differing


def test_a_source_without_times_is_served_and_corrected(store: str, tmp_path: Path) -> None:
    spec = dataclasses.replace(MIXED, event_time=None)
    chain = feature_chain(tmp_path, redis=store, spec=spec)
    _replace(chain, lambda lines: [lines[0], *lines[1::2]])
    first = chain.run()
    assert first.failures == {}
    assert chain.online("c-0")[0] == 1000.0
    _replace(chain, lambda lines: [line.replace("1000.0", "7.5") for line in lines])
    second = chain.run()
    assert second.failures == {}
    assert chain.online("c-0")[0] == 7.5, "with the same event time as before"
    assert all(check.passed for check in second.checks.values())


def test_rows_that_have_no_label_yet_are_served(tmp_path: Path) -> None:
    spec = dataclasses.replace(IRIS, target=dataclasses.replace(IRIS.target, drop_missing=True))
    chain = feature_chain(tmp_path, spec=spec)
    later = ["1,2024-05-01T00:00:00Z,9.5,3.5,1.4,0.2,", "777,2024-05-01T00:00:00Z,6,3,1,0.2,"]
    _replace(chain, lambda lines: [*lines, *later])
    outcome = chain.run()
    assert outcome.failures == {}
    assert all(check.passed for check in outcome.checks.values())
    assert _online(chain, 1)[0] == 9.5, "the newest row, although it has no label"
    assert _online(chain, 777)[0] == 6.0
    rows = training_rows(chain.feast, outcome.values[FEATURES], spec)
    assert len(rows.labels) == 450
    assert 777 not in rows.groups


def test_what_reading_changes_is_a_warning(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    _replace(chain, lambda lines: [*lines, "0150,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,setosa"])
    outcome = chain.run(FEATURES)
    assert outcome.success
    check = outcome.checks["features.losses"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "'0150' and '150'" in (check.description or "")


def test_an_entity_whose_features_all_became_empty_is_empty_online(
    store: str, tmp_path: Path
) -> None:
    spec = dataclasses.replace(MIXED, features=MIXED.features[:1])
    chain = feature_chain(tmp_path, redis=store, spec=spec)
    assert chain.run().success
    assert chain.online("c-1") == [1000.375]
    _replace(chain, lambda lines: [*lines, "c-1,2024-02-01T00:00:00Z,,1,,1,1,,x,,yes,"])
    assert chain.run().success
    assert chain.online("c-1") == [None]


def test_an_older_service_of_a_model_still_reads_after_a_newer_one(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    assert chain.run().success
    chain.spec = dataclasses.replace(
        IRIS, features=(*IRIS.features[:3], FeatureSpec("petal_width", DType.FP64))
    )
    assert chain.spec.feature_service != IRIS.feature_service
    _replace(chain, lambda lines: [*lines, "1,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,setosa"])
    assert chain.run().success
    assert chain.online(1)[3] == 0.6
    [old] = chain.feast.online(IRIS.feature_view).read([1])
    assert round(old.values["petal_width"], 2) == 0.2
    assert chain.feast.service_contract(IRIS.feature_service) == IRIS.contract
    assert chain.feast.service_contract(chain.spec.feature_service) == chain.spec.contract


def test_two_models_share_a_store_and_nothing_in_it(chain: FeatureChain, store: str) -> None:
    other = feature_chain(chain.home, redis=store, spec=MIXED)
    assert other.run().success
    chain.source.unlink()
    iris = feature_chain(chain.home, redis=store)
    assert iris.run().success
    assert _online(iris, 1) == [5.1, 3.5, 1.4, 0.2]
    assert other.online("c-1")[0] == 1000.375
    assert iris.feast.service_contract(MIXED.feature_service) == MIXED.contract


def test_the_contract_is_that_of_what_feast_has_registered(tmp_path: Path) -> None:
    feast = feature_chain(tmp_path).feast
    feast.apply(feast_definitions(MIXED, feast.data_dir))
    assert feast.service_contract(MIXED.feature_service) == MIXED.contract
    swapped = dataclasses.replace(MIXED, features=MIXED.features[::-1])
    *others, service = feast_definitions(swapped, feast.data_dir)
    service.name = MIXED.feature_service
    feast.apply([*others, service])
    assert feast.service_contract(MIXED.feature_service) == swapped.contract != MIXED.contract
    with pytest.raises(FeatureStoreError, match="look up feature service nothing"):
        feast.service_contract("nothing")


def test_values_without_times_never_expire_and_others_do_by_the_ttl() -> None:
    timeless = dataclasses.replace(MIXED, event_time=None)
    views = [feast_definitions(spec, Path("/state"))[2] for spec in (timeless, MIXED)]
    assert [view.ttl for view in views] == [timedelta(0), MIXED.ttl]
    assert views[0].batch_source.path == "/state/loans/features.parquet"


def test_a_new_source_replaces_what_is_served_online(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    chain.run()
    _replace(chain, lambda lines: [*lines, "1,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,setosa"])
    second = chain.run()
    assert second.success
    assert _online(chain, 1) == [6.6, 3.6, 1.6, 0.6]


def test_an_online_store_that_lost_values_fails_the_check(chain: FeatureChain) -> None:
    first = chain.run()
    assert first.success
    if chain.feast.online_store == "redis":
        port = int(chain.feast.redis.rsplit(":", 1)[1].split("/")[0])
        redis_client.Redis(port=port).flushall()
    else:
        with sqlite3.connect(chain.feast.home / "online.db") as database:
            database.execute(f"DELETE FROM serving_platform_{IRIS.feature_view}")
        database.close()
    result = compare_online(chain.feast, first.values[FEATURES], IRIS)
    assert len(result.differing) == result.values == 600
    assert result.differing[0].startswith("entity_id 1, sepal_length: offline")


def test_an_unknown_entity_has_no_row_online(chain: FeatureChain) -> None:
    chain.run()
    rows = chain.feast.online(IRIS.feature_view).read([999_999, 1])
    assert [len(row.values) for row in rows] == [0, 4]
    assert [row.observed_at is None for row in rows] == [True, False]


def test_a_later_observation_never_leaks_into_an_earlier_time(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    assert chain.run().success
    asked = pd.DataFrame(
        {
            "entity_id": [1, 1, 1],
            "event_timestamp": [
                datetime(2024, 3, 14, 23, 59, 59, tzinfo=UTC),
                datetime(2024, 3, 15, tzinfo=UTC),
                datetime(2024, 12, 1, tzinfo=UTC),
            ],
        }
    )
    known = chain.feast.historical(asked, IRIS.feature_service).sort_values("event_timestamp")
    assert known["sepal_length"].tolist() == pytest.approx([4.79, 4.95, 5.10])


def test_two_state_directories_share_nothing(tmp_path: Path) -> None:
    one, two = feature_chain(tmp_path / "one"), feature_chain(tmp_path / "two")
    assert one.run().success
    _replace(two, lambda lines: [*lines, "1,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,setosa"])
    assert two.run().success
    assert _online(one, 1) == [5.1, 3.5, 1.4, 0.2]
    assert _online(two, 1) == [6.6, 3.6, 1.6, 0.6]


def test_the_rendered_configuration_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = FeastResource(
        state_dir=str(tmp_path / "state"),
        online_store="redis",
        redis="redis://:s%40crit@cache:6380/2",
    )
    path = store.render()
    assert 'cache:6380,password=\\"s@crit\\",db=2' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("online_store", "said"), [("redis", "no address"), ("mongo", "unknown online store 'mongo'")]
)
def test_an_online_store_that_cannot_be_is_refused(
    tmp_path: Path, online_store: str, said: str
) -> None:
    store = FeastResource(state_dir=str(tmp_path), online_store=online_store)
    with pytest.raises(FeatureStoreError, match=said):
        store.render()


def test_assets_carry_the_names_and_promises_of_their_model() -> None:
    spec = dataclasses.replace(
        IRIS,
        tags={"area": "plants"},
        owners=("team:botany",),
        automation=AutomationSpec(freshness=timedelta(hours=6)),
    )
    features, online = feature_assets(spec)
    assert [one.key.path for one in (features, online)] == [
        ["best_model", "features"],
        ["best_model", "online_features"],
    ]
    assert features.specs_by_key[features.key].group_name == "best_model"
    assert features.specs_by_key[features.key].owners == ["team:botany"]
    assert features.specs_by_key[features.key].tags["area"] == "plants"
    assert features.specs_by_key[features.key].freshness_policy == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=6)
    )
    assert features.op.name == "best_model__features"


def _drop_column(lines: list[str]) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in lines]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_column, "lacks species in"),
        (
            lambda lines: [lines[0].replace("sepal_width", "width"), *lines[1:]],
            "lacks sepal_width in",
        ),
        (lambda lines: [*lines[:4], lines[4].replace("4.32", "wide"), *lines[5:]], "row 4 "),
        (
            lambda lines: [line for line in lines if not line.endswith(",virginica")] + lines[-1:],
            "class virginica: 1 row",
        ),
        (lambda lines: [*lines[:-1], "150,2024-03-29T02:29:00Z,,3,5,1,virginica"], "empty values"),
        (lambda lines: lines[:1], "has columns and no rows"),
    ],
)
def test_a_bad_source_fails_the_run_and_leaves_the_features_as_they_were(
    tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    chain = feature_chain(tmp_path)
    assert chain.run(FEATURES).success
    before = chain.features_file.read_bytes()
    _replace(chain, change)
    outcome = chain.run()
    assert list(outcome.failures) == ["features"]
    assert said in outcome.failures["features"]
    assert STILL_SERVED in outcome.failures["features"]
    assert "What to do: " in outcome.failures["features"]
    assert chain.features_file.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00broken"])
def test_a_source_that_is_missing_empty_or_no_text_fails_the_run(
    tmp_path: Path, content: bytes | None
) -> None:
    chain = feature_chain(tmp_path)
    chain.source.unlink()
    if content is not None:
        chain.source.write_bytes(content)
    outcome = chain.run()
    assert list(outcome.failures) == ["features"]
    assert "he source file ${SOURCE_PATH} " in outcome.failures["features"]
    assert STILL_SERVED in outcome.failures["features"]


def test_a_value_out_of_range_blocks_what_follows(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    _replace(
        chain, lambda lines: [lines[0], "1,2024-01-01T00:00:00Z,500,3,1,0.2,setosa", *lines[1:]]
    )
    outcome = chain.run()
    check = outcome.checks["features.ranges"]
    assert not check.passed
    assert check.metadata["rows_outside"].value == 1
    assert "sepal_length: 1 of 451 rows outside 1 .. 12" in (check.description or "")
    assert "online_features" not in outcome.values
    assert not (chain.feast.home / "online.db").exists()


def test_files_are_kept_where_the_checks_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = feature_chain(tmp_path)
    assert chain.run(FEATURES).success
    before = chain.features_file.read_bytes()
    _replace(chain, lambda lines: lines[:-1])

    def fail(*_: object) -> None:
        raise RuntimeError("no check")

    monkeypatch.setattr("platform_assets.features.assets.source_check_results", fail)
    outcome = chain.run(FEATURES)

    assert list(outcome.failures) == ["features"]
    assert chain.features_file.read_bytes() == before


def test_files_that_another_run_replaced_are_not_materialized(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path)
    assert chain.run(FEATURES).success
    other = dataclasses.replace(read_source(IRIS, chain.resource), fingerprint="0" * 64)
    write_feature_data(other, IRIS, chain.feast.data_dir)
    outcome = chain.run(ONLINE)
    assert "another run replaced it" in outcome.failures["online_features"]


@pytest.mark.needs("redis-server")
def test_a_redis_that_is_down_fails_within_seconds_and_a_retry_continues(tmp_path: Path) -> None:
    chain = feature_chain(tmp_path, redis=f"redis://127.0.0.1:{free_port()}/0")
    started = time.monotonic()
    outcome = chain.run()
    assert time.monotonic() - started < 30
    assert list(outcome.failures) == ["online_features"]
    assert "does not answer" in outcome.failures["online_features"]
    assert STILL_SERVED in outcome.failures["online_features"]
    with run_redis(tmp_path / "redis") as running:
        # Not model_copy: Dagster makes a run's resource from what the constructor was given.
        chain.feast = FeastResource(
            state_dir=chain.feast.state_dir, online_store="redis", redis=running.url
        )
        assert chain.run(ONLINE).success
