"""Features on the real Feast: SQLite and Redis, point in time, every bad source."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
import redis as redis_client

from platform_assets.features.reading import read_source
from platform_assets.features.spec import IRIS
from platform_assets.features.storage import write_feature_data
from platform_assets.resources.feast import FeastResource, FeatureStoreError
from platform_assets.training.frame import training_rows
from platform_assets.training.selection import TrainingError
from tests.chain import FEATURE_ASSETS, Chain, new_chain
from tests.servers import RunningRedis, free_port, run_redis

CONFIG = ("repo_path", "state_dir", "online_store", "redis", "project")
STILL_SERVED = "production still is what GET /models of the gateway says"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with run_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(params=["sqlite", "redis"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    """A chain on each kind of online store."""
    if request.param == "sqlite":
        return new_chain(tmp_path)
    running: RunningRedis = request.getfixturevalue("redis")
    redis_client.Redis(port=running.port).flushall()
    return new_chain(tmp_path, redis=running.url)


def _replace(chain: Chain, change: Callable[[list[str]], list[str]]) -> None:
    lines = change(chain.source.read_text().splitlines())
    chain.source.write_text("\n".join(lines) + "\n")


def _changed(feast: FeastResource, **changes: str) -> FeastResource:
    # Not model_copy: Dagster makes the resource of a run from what the constructor was given.
    return FeastResource(**{**{name: getattr(feast, name) for name in CONFIG}, **changes})


def _online(chain: Chain, entity: int) -> list[float]:
    frame = chain.feast.online("entity_id", [entity], IRIS.feature_service)
    return [round(float(frame[name].iloc[0]), 2) for name in IRIS.feature_names]


def test_features_reach_the_online_store_with_all_checks_green(chain: Chain) -> None:
    outcome = chain.run(*FEATURE_ASSETS)
    assert outcome.failures == {}
    assert {name: check.passed for name, check in outcome.checks.items()} == {
        "features.schema": True,
        "features.nulls": True,
        "features.ranges": True,
        "online_features.online_equals_offline": True,
    }
    compared = outcome.checks["online_features.online_equals_offline"].metadata
    assert compared["values_compared"].value == 600
    assert _online(chain, 1) == [5.1, 3.5, 1.4, 0.2], "the newest of three observations"
    assert outcome.metadata["features"]["dagster/row_count"].value == 450


def test_a_new_source_replaces_what_is_served_online(chain: Chain) -> None:
    chain.run(*FEATURE_ASSETS)
    _replace(chain, lambda lines: [*lines, "1,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,0"])
    second = chain.run(*FEATURE_ASSETS)
    assert second.success
    assert _online(chain, 1) == [6.6, 3.6, 1.6, 0.6]


def test_an_online_store_that_lost_values_fails_the_check(chain: Chain) -> None:
    first = chain.run(*FEATURE_ASSETS)
    assert first.success
    if chain.feast.online_store == "redis":
        port = int(chain.feast.redis.rsplit(":", 1)[1].split("/")[0])
        redis_client.Redis(port=port).flushall()
    else:
        with sqlite3.connect(chain.feast.home / "online.db") as database:
            database.execute("DELETE FROM serving_platform_best_model_features")
        database.close()
    from platform_assets.features.consistency import compare_online

    result = compare_online(chain.feast, first.values["features"], IRIS)
    assert len(result.differing) == result.values == 600
    assert result.differing[0].startswith("entity_id 1, sepal_length: offline")


def test_an_unknown_entity_is_all_null_online(chain: Chain) -> None:
    chain.run(*FEATURE_ASSETS)
    frame = chain.feast.online("entity_id", [999_999, 1], IRIS.feature_service)
    assert frame[list(IRIS.feature_names)].isna().all(axis=1).tolist() == [True, False]


def test_a_later_observation_never_leaks_into_a_training_row(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    outcome = chain.run(*FEATURE_ASSETS)
    rows = training_rows(chain.feast, outcome.values["features"], IRIS)
    assert rows.values.shape == (450, 4)
    first = rows.values[rows.groups == 1]
    assert first[:, 0].tolist() == pytest.approx([4.79, 4.95, 5.10])

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


def test_a_label_without_an_observation_before_it_is_refused(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    chain.run(*FEATURE_ASSETS)
    table, fingerprint = read_source(chain.source, IRIS)
    data = write_feature_data(
        table, IRIS, chain.feast.data_dir, source=chain.source, fingerprint=fingerprint
    )
    from pyarrow import parquet

    labels = parquet.read_table(data.labels_path)
    stamps = labels["event_timestamp"].to_pylist()
    stamps[3] = datetime(2020, 1, 1, tzinfo=UTC)
    index = labels.column_names.index("event_timestamp")
    changed = labels.set_column(
        index, labels.schema.field(index), [pd.Series(stamps).dt.as_unit("us")]
    )
    parquet.write_table(changed, data.labels_path)
    with pytest.raises(TrainingError, match="1 of 450 labels have no complete observation"):
        training_rows(chain.feast, data, IRIS)


def test_two_state_directories_share_nothing(tmp_path: Path) -> None:
    one, two = new_chain(tmp_path / "one"), new_chain(tmp_path / "two")
    assert one.run(*FEATURE_ASSETS).success
    _replace(two, lambda lines: [*lines, "1,2024-05-01T00:00:00Z,6.6,3.6,1.6,0.6,0"])
    assert two.run(*FEATURE_ASSETS).success
    assert _online(one, 1) == [5.1, 3.5, 1.4, 0.2]
    assert _online(two, 1) == [6.6, 3.6, 1.6, 0.6]


def test_the_rendered_configuration_is_for_its_owner_alone(tmp_path: Path) -> None:
    store = FeastResource(
        repo_path="x",
        state_dir=str(tmp_path / "state"),
        online_store="redis",
        redis="redis://:s%40crit@cache:6380/2",
    )
    path = store.render()
    assert "cache:6380,db=2,password=s@crit" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("online_store", "said"), [("redis", "no address"), ("mongo", "unknown online store 'mongo'")]
)
def test_an_online_store_that_cannot_be_is_refused(
    tmp_path: Path, online_store: str, said: str
) -> None:
    store = FeastResource(repo_path="x", state_dir=str(tmp_path), online_store=online_store)
    with pytest.raises(FeatureStoreError, match=said):
        store.render()


def _drop_column(lines: list[str]) -> list[str]:
    return [line.rsplit(",", 1)[0] for line in lines]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop_column, "lacks ['species']"),
        (lambda lines: [lines[0].replace("sepal_width", "width"), *lines[1:]], "has unknown"),
        (lambda lines: [*lines[:4], lines[4].replace("4.32", "wide"), *lines[5:]], "row 4 "),
        (
            lambda lines: [line for line in lines if line[-2:] != ",2"] + lines[-1:],
            "class 2: 1 row",
        ),
        (lambda lines: [*lines[:-1], "150,2024-03-29T02:29:00Z,,3,5,1,2"], "empty values"),
        (lambda lines: lines[:1], "has a header and no rows"),
    ],
)
def test_a_bad_source_fails_the_run_and_leaves_the_features_as_they_were(
    tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    chain = new_chain(tmp_path)
    assert chain.run("features").success
    before = (chain.feast.data_dir / "features.parquet").read_bytes()
    _replace(chain, change)
    outcome = chain.run(*FEATURE_ASSETS)
    assert list(outcome.failures) == ["features"]
    assert said in outcome.failures["features"]
    assert STILL_SERVED in outcome.failures["features"]
    assert "What to do: " in outcome.failures["features"]
    assert (chain.feast.data_dir / "features.parquet").read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00broken"])
def test_a_source_that_is_missing_empty_or_no_text_fails_the_run(
    tmp_path: Path, content: bytes | None
) -> None:
    chain = new_chain(tmp_path)
    chain.source.unlink()
    if content is not None:
        chain.source.write_bytes(content)
    outcome = chain.run(*FEATURE_ASSETS)
    assert list(outcome.failures) == ["features"]
    assert str(chain.source) in outcome.failures["features"]
    assert STILL_SERVED in outcome.failures["features"]


def test_a_value_out_of_range_blocks_what_follows(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    _replace(chain, lambda lines: [lines[0], "1,2024-01-01T00:00:00Z,500,3,1,0.2,0", *lines[1:]])
    outcome = chain.run(*FEATURE_ASSETS)
    check = outcome.checks["features.ranges"]
    assert not check.passed
    assert check.metadata["rows_outside"].value == 1
    assert "sepal_length: 1 of 451 rows outside 1 .. 12" in (check.description or "")
    assert "online_features" not in outcome.values
    assert not (chain.feast.home / "online.db").exists()


def test_files_that_another_run_replaced_are_not_materialized(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    assert chain.run("features").success
    table, _ = read_source(chain.source, IRIS)
    write_feature_data(table, IRIS, chain.feast.data_dir, source=chain.source, fingerprint="0" * 64)
    outcome = chain.run("online_features")
    assert "another run replaced it" in outcome.failures["online_features"]


def test_a_redis_that_is_down_fails_within_seconds_and_a_retry_continues(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, redis=f"redis://127.0.0.1:{free_port()}/0")
    started = time.monotonic()
    outcome = chain.run(*FEATURE_ASSETS)
    assert time.monotonic() - started < 30
    assert list(outcome.failures) == ["online_features"]
    assert "does not answer" in outcome.failures["online_features"]
    assert STILL_SERVED in outcome.failures["online_features"]
    with run_redis(tmp_path / "redis") as running:
        chain.feast = _changed(chain.feast, redis=running.url)
        assert chain.run("online_features").success


def test_definitions_that_serve_other_features_are_refused(tmp_path: Path) -> None:
    chain = new_chain(tmp_path)
    repo = tmp_path / "repo"
    repo.mkdir()
    text = (Path(chain.feast.repo_path) / "best_model.py").read_text()
    line = '        Field(name="petal_width", dtype=Float32),\n'
    assert line in text
    (repo / "best_model.py").write_text(text.replace(line, ""))
    chain.feast = _changed(chain.feast, repo_path=str(repo))
    outcome = chain.run(*FEATURE_ASSETS)
    assert "make the definitions in" in outcome.failures["online_features"]


@pytest.mark.parametrize("text", ["", "raise RuntimeError('half done')", "def ("])
def test_definitions_that_do_not_load_are_named(tmp_path: Path, text: str) -> None:
    chain = new_chain(tmp_path)
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "broken.py").write_text(text)
    chain.feast = _changed(chain.feast, repo_path=str(repo))
    outcome = chain.run(*FEATURE_ASSETS)
    assert str(repo) in outcome.failures["online_features"]
    assert STILL_SERVED in outcome.failures["online_features"]
