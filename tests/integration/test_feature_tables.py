"""Models of several feature tables: joined as of the time of a label, and shared between models."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from platform_assets.automation import new_data_sensor, table_sensor
from platform_assets.features.feast_definitions import feast_definitions
from platform_assets.features.records import FeatureData
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.source import SourceResource
from platform_assets.training.frame import training_rows
from platform_assets.training.rows import Rows, TrainingError
from serving_gateway.contract import DType
from tests.support.several_tables import (
    BEGIN,
    CUSTOMERS,
    MODEL,
    TableChain,
    Tables,
    new_tables,
    tables,
)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> TableChain:
    """A chain whose tables and labels were materialized once; tests leave its files alone."""
    chain = new_tables(tmp_path_factory.mktemp("tables"))
    for name, outcome in chain.run().items():
        assert outcome.success, (name, outcome.failures)
    return chain


def _joined(chain: TableChain, name: str = "payments") -> Rows:
    made: FeatureData = chain.run(name)[name].values["online_features"]
    return training_rows(chain.feast, made, chain.model(name))


def _expected(rows: Tables) -> list[tuple[object, ...]]:
    """The join, written a second time: row by row, by what each payment could know."""
    ordered = sorted(rows.payments, key=lambda one: (one[2], one[0]))
    return [
        (*rows.known(customer, at), np.float32(rows.shops[shop]), np.float32(amount))
        for customer, shop, at, amount, _ in ordered
    ]


def test_labels_are_joined_with_what_was_known_at_their_time(settled: TableChain) -> None:
    rows = _joined(settled)

    found = [
        (None if np.isnan(age) else int(age), region or None, risk, amount)
        for age, region, risk, amount in rows.features.itertuples(index=False)
    ]
    expected = _expected(tables())
    assert sum(one[0] is None for one in expected) > 5  # some are too old, or not there yet
    assert found == expected
    assert list(rows.features) == ["age", "region", "risk", "amount"]


def test_value_that_became_known_later_does_not_reach_training(tmp_path: Path) -> None:
    rows = tables(payments=80)
    # The leak: a second after each bad payment its customer gets an age that gives it away.
    leaks = [
        (one, at + timedelta(seconds=1), 999, "x") for one, _, at, _, bad in rows.payments if bad
    ]
    times = {(one, seen) for one, seen, *_ in rows.customers}
    leaked = replace(
        rows, customers=rows.customers + [one for one in leaks if one[:2] not in times]
    )
    chain = new_tables(tmp_path, leaked)
    chain.run("customers", "shops")

    ages = [None if np.isnan(age) else int(age) for age in _joined(chain).features["age"]]

    assert ages == [one[0] for one in _expected(leaked)]
    peeking = [
        leaked.known(customer, at + timedelta(seconds=1))[0]
        for customer, _, at, *_ in sorted(leaked.payments, key=lambda one: (one[2], one[0]))
    ]
    assert ages != peeking  # a join that looked ahead would have been found out


def test_label_without_a_row_of_a_table_that_must_have_one_is_refused(tmp_path: Path) -> None:
    rows = tables(payments=40)
    chain = new_tables(tmp_path, replace(rows, shops={**rows.shops, "s0": 0.5}))
    (tmp_path / "shops" / "shops.csv").write_text("shop_id,risk\ns1,0.5\n")
    chain.run("customers", "shops")

    with pytest.raises(
        TrainingError, match=r"of 40 labels have no row of shops .* first shop_id s"
    ):
        _joined(chain)


def test_labels_that_are_not_final_are_left_out(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    rows = tables(payments=60)
    shift = now - BEGIN - timedelta(days=100)  # the last payments are of tomorrow's past
    moved = [(c, s, at + shift - timedelta(days=11), x, bad) for c, s, at, x, bad in rows.payments]
    chain = new_tables(tmp_path, replace(rows, payments=moved))
    file = tmp_path / "payments" / "defs.yaml"
    file.write_text(MODEL.replace("{column: at}", "{column: at}\n    outcome_delay: 30d"))
    chain.run("customers", "shops")

    found = _joined(chain)

    final = [at for _, _, at, *_ in moved if at <= now - timedelta(days=30)]
    assert 0 < len(final) < 60
    assert len(found) == len(final)


def test_table_that_was_never_read_is_named_with_its_job(tmp_path: Path) -> None:
    chain = new_tables(tmp_path, tables(payments=40))

    outcome = chain.run("payments")["payments"]

    assert "feature table customers was never materialized" in outcome.failures["online_features"]
    assert "run the job customers_table" in outcome.failures["online_features"]


def test_two_models_share_a_table_and_one_leaves_the_other_alone(tmp_path: Path) -> None:
    chain = new_tables(tmp_path, tables(payments=60))
    second = tmp_path / "refunds"
    second.mkdir()
    text = MODEL.replace("payments.csv", "../payments/payments.csv")
    for old, new in (
        ("[age, region]", "[region]"),
        ("    shops: [risk]\n", ""),
        (", shop_id: null", ""),
    ):
        text = text.replace(old, new)
    (second / "defs.yaml").write_text(text)
    assert all(one.success for one in chain.run("customers", "shops", "payments").values())
    before = chain.feast.online("customers").read([1, 2, 3])

    assert chain.run("refunds")["refunds"].success

    readers = chain.feast.readers("customers")
    assert {tuple(columns) for columns in readers.values()} == {("age", "region"), ("region",)}
    chain.feast.delete_service(chain.model("refunds").feature_service)
    assert list(chain.feast.readers("customers")) == [chain.model().feature_service]
    assert chain.feast.online("customers").read([1, 2, 3]) == before
    assert len(_joined(chain)) == 60


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (("age: {type: integer, nullable: true}", "years: {from: age, nullable: true}"), "age"),
        (("region: {type: text", "region: {from: age, type: integer"), "region"),
    ],
    ids=["a column is gone", "a column has another type"],
)
def test_column_that_versions_read_stays_unless_breaking_is_allowed(
    tmp_path: Path, change: tuple[str, str], lost: str
) -> None:
    chain = new_tables(tmp_path, tables(payments=40))
    chain.run()
    file = tmp_path / "customers" / "defs.yaml"
    service = chain.model().feature_service
    (tmp_path / "payments").rename(tmp_path / ".payments")  # its file would be refused now
    file.write_text(CUSTOMERS.replace(*change))

    files = _contents(tmp_path)
    assert files

    refused = chain.run("customers")["customers"].failures["features"]

    assert _contents(tmp_path) == files, "training and batch scoring go on reading the old ones"
    assert f"{service} reads {lost}" in refused
    assert "allow_breaking" in refused
    file.write_text(CUSTOMERS.replace(*change) + "  allow_breaking: true\n")
    assert chain.run("customers")["customers"].success


def test_new_column_of_a_table_is_written_for_every_entity(tmp_path: Path) -> None:
    chain = new_tables(tmp_path, tables(payments=40))
    chain.run()
    file = tmp_path / "customers" / "defs.yaml"
    file.write_text(CUSTOMERS + "    years: {from: age, type: double, nullable: true}\n")

    model = tmp_path / "payments" / "defs.yaml"
    model.write_text(MODEL.replace("[age, region]", "[age, region, years]"))
    refused = chain.run("payments")["payments"].failures["online_features"]
    assert "customers was last read without years" in refused
    assert "run the job customers_table" in refused

    assert chain.run("customers")["customers"].success

    assert chain.run("payments")["payments"].success
    stored = [row.values for row in chain.feast.online("customers").read(range(1, 21))]
    assert all(row["years"] == row["age"] for row in stored if row)
    assert len(_joined(chain)) == 40


def test_service_of_several_tables_has_the_contract_of_the_model(settled: TableChain) -> None:
    spec = settled.model()
    request = [one.feature for one in spec.request]

    found = settled.feast.service_contract(spec.feature_service, spec.feature_names, request)

    assert found == spec.column_contract != spec.contract
    assert spec.signature((False, True)).request == ("amount",)
    assert spec.signature((False, True)).join_keys == ("customer_id", "shop_id")
    [service] = feast_definitions(spec, settled.feast.data_dir)
    assert service.name == spec.feature_service


def _asked(chain: TableChain, name: str) -> dg.SensorResult | dg.SkipReason:
    """What the sensor of a model or a table decides now."""
    spec = chain.specs[name]
    job = dg.define_asset_job("job", selection=dg.AssetSelection.groups(name))
    sensor = new_data_sensor(spec, job) if isinstance(spec, ModelSpec) else table_sensor(spec, job)
    context = dg.build_sensor_context(
        instance=chain.instance, resources={"source": SourceResource()}
    )
    decision = sensor(context)
    assert isinstance(decision, dg.SensorResult | dg.SkipReason)
    return decision


def test_model_is_trained_again_when_one_of_its_tables_was_read_anew(tmp_path: Path) -> None:
    chain = new_tables(tmp_path, tables(payments=40))
    missing = _asked(chain, "payments")
    assert isinstance(missing, dg.SensorResult)
    assert "customers was never read: run customers_table" in str(missing.skip_reason)
    chain.run()
    settled = _asked(chain, "payments")
    assert isinstance(settled, dg.SensorResult)
    assert not settled.run_requests

    with (tmp_path / "customers" / "customers.csv").open("a") as file:
        file.write("99,2024-01-01T00:00:00+00:00,50,n\n")

    table = _asked(chain, "customers")
    assert isinstance(table, dg.SensorResult)
    assert table.run_requests
    assert chain.run("customers")["customers"].success
    model = _asked(chain, "payments")
    assert isinstance(model, dg.SensorResult)
    assert model.run_requests


EXTERNAL = """type: platform_assets.components.FeatureTable
attributes:
  source: {feast_view: people}
  join_key: {column: customer_id, type: integer}
  event_timestamp: {column: seen}
  ttl: 30d
  columns:
    age: {type: integer, nullable: true}
    region: {type: text, nullable: true}
"""


def _register_people(chain: TableChain) -> None:
    """Do what another team would: apply a view of its own, over a file of its own."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Int64, String

    human = Entity(name="human", join_keys=["customer_id"], value_type=ValueType.INT64)
    own = {"customer_id": Int64, "age": Int64, "region": String, "notes": String}
    file = str(chain.feast.view("customers").batch_source.path)
    people = FeatureView(
        name="people",
        entities=[human],
        ttl=timedelta(days=30),
        schema=[Field(name=name, dtype=dtype) for name, dtype in own.items()],
        source=FileSource(name="people_file", path=file, timestamp_field="seen"),
    )
    chain.feast.apply([human, people])


def test_view_that_others_fill_is_read_like_a_table(tmp_path: Path) -> None:
    chain = new_tables(tmp_path, tables(payments=60))
    chain.run()
    own = _joined(chain)
    _register_people(chain)
    file = tmp_path / "customers" / "defs.yaml"
    file.write_text(EXTERNAL)

    assert chain.run("customers")["customers"].success

    assert _joined(chain).features.equals(own.features)
    assert chain.feast.readers("people") == {
        chain.model().feature_service: {"age": DType.INT64, "region": DType.BYTES}
    }
    for old, new, said in (
        ("view: people", "view: absent", "absent"),
        ("age: {type: integer", "height: {type: integer", "has no column height"),
        ("age: {type: integer", "age: {type: text", "has age as integer, not as text"),
        ("ttl: 30d", "ttl: 31d", "has the ttl 2592000s: give the same"),
        ("seen", "time", "has its times in seen: give this as event_timestamp"),
    ):
        file.write_text(EXTERNAL.replace(old, new))
        shutil.move(tmp_path / "payments", tmp_path / ".payments")  # its columns may be gone
        refused = chain.run("customers")["customers"].failures["online_features"]
        shutil.move(tmp_path / ".payments", tmp_path / "payments")
        assert said in refused


def _contents(folder: Path) -> dict[Path, bytes]:
    return {one: one.read_bytes() for one in folder.rglob("customers/**/*.parquet")}
