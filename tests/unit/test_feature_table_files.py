"""Files of feature tables, and of models that read them: what is refused, and where."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from platform_assets.components import FeatureTable
from platform_assets.components.__main__ import main
from platform_assets.components.component import TableAttributes
from platform_assets.components.defining import define_models
from platform_assets.components.loading import read_models
from platform_assets.shared_definitions import resources
from serving_gateway.contract import DType
from tests.support.model_files import MINIMAL
from tests.support.several_tables import CUSTOMERS, MODEL, SHOPS, tables, write_files


def _problems(folder: Path, **files: str) -> list[str]:
    """What is wrong with the shipped files of the test once these have other contents."""
    write_files(folder, tables(payments=1))
    for name, text in files.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "defs.yaml").write_text(text)
    return [
        str(one).replace(f"{folder}/", "").replace("/defs.yaml", "")
        for one in read_models(folder).problems
    ]


def test_model_of_a_table_whose_name_a_model_takes_is_refused_with_it(tmp_path: Path) -> None:
    named = MINIMAL.replace("attributes:", "attributes:\n  model_name: shops")
    said = _problems(tmp_path, copy=named, shops=SHOPS)
    assert [spec.name for spec in read_models(tmp_path).specs.values()] == ["payments"]
    assert any("'shops' is also the name of" in one for one in said)
    table = SHOPS.replace("attributes:", "attributes:\n  table_name: shops")
    said = _problems(tmp_path, shops=named, other=table)
    models = read_models(tmp_path)
    assert [spec.name for spec in models.specs.values()] == ["shops"]
    assert [table.name for table in models.tables.values()] == ["customers"]
    assert any(one.startswith("payments:") and "no feature table shops" in one for one in said)


def test_columns_and_keys_have_the_types_of_their_tables(tmp_path: Path) -> None:
    assert _problems(tmp_path) == []
    [spec] = read_models(tmp_path).specs.values()

    assert [(one.name, one.dtype, one.table) for one in spec.features] == [
        ("age", DType.INT64, "customers"),
        ("region", DType.BYTES, "customers"),
        ("risk", DType.FP32, "shops"),
        ("amount", DType.FP32, ""),
    ]
    assert [(one.name, one.dtype, one.source_column) for one in spec.join_keys] == [
        ("customer_id", DType.INT64, "payer"),
        ("shop_id", DType.BYTES, ""),
    ]
    assert spec.source.file == str(tmp_path / "payments" / "payments.csv")
    assert [one.name for one in spec.tables] == ["customers", "shops"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "shops: [risk]",
            "shop: [risk]",
            "payments:9: features.shop[0]: there is no feature table shop. Did you mean `shops`? "
            "There are customers, shops",
        ),
        (
            "shops: [risk]",
            "payments: [risk]",
            "payments:9: features.payments[0]: there is no feature table payments. There are "
            "customers, shops",
        ),
        (
            "[age, region]",
            "[age, regoin]",
            "payments:8: features.customers[1]: customers has no column regoin. Did you mean "
            "`region`? It has age, region",
        ),
        (
            "{customer_id: payer, shop_id: null}",
            "{customer_id: payer}",
            "payments:9: features.shops[0]: shops is read by shop_id: list this key under "
            "labels.entities",
        ),
        (
            "    shops: [risk]\n",
            "",
            "payments:5: labels.entities[1]: no table of the model is read by shop_id: remove it",
        ),
        (
            "[age, region]",
            "{age: integer}",
            "payments:7: features: customers: write the columns of this table as a list of names",
        ),
        (
            "amount: {minimum: 0}",
            "region: text",
            "payments:11: request.region: 'region' is a column of customers: the model may not "
            "read it; remove it",
        ),
        (
            "amount: {minimum: 0}",
            "bad: text",
            "payments:11: request.bad: 'bad' is the target: the model may not read it; remove it",
        ),
        (
            "  task: binary",
            "  source: {file: x.csv}\n  task: binary",
            "payments:13: source: belongs to `labels` where there are such: move it there",
        ),
        (
            "  task: binary",
            "  ttl: 3d\n  task: binary",
            "payments:13: ttl: belongs to the feature tables: write it there",
        ),
    ],
)
def test_model_that_names_what_is_not_there_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in MODEL

    assert _problems(tmp_path, payments=MODEL.replace(old, new)) == [said]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{column: shop_id, type: text}",
            "{row_number: shop_id}",
            "shops:4: join_key.row_number: labels and requests name rows by a key: give its "
            "`column`",
        ),
        (
            "  columns: {risk",
            "  ttl: 3d\n  columns: {risk",
            "shops:5: ttl: needs `event_timestamp`: without times no value gets old",
        ),
        ("{risk", "{shop_ID", "shops:5: columns.shop_ID: 'shop_ID' is the join key: remove it"),
        ("columns:", "colums:", "shops:5: colums: is not a known field. Did you mean"),
    ],
)
def test_table_that_cannot_be_one_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SHOPS

    found = _problems(tmp_path, shops=SHOPS.replace(old, new))

    assert any(one.startswith(said) for one in found)
    assert "correct the file of feature table shops first" in found[-1]


def test_outcomes_that_were_not_known_yet_are_not_learned_from(tmp_path: Path) -> None:
    delayed = MODEL.replace("{column: at}", "{column: at}\n    outcome_delay: 30d")
    by_entity = delayed + "  evaluation: {split: entity}\n"

    for text, gap in ((MODEL, None), (delayed, timedelta(days=30)), (by_entity, None)):
        assert _problems(tmp_path, payments=text) == []
        [spec] = read_models(tmp_path).specs.values()
        assert spec.evaluation.gap == gap


def test_request_features_need_labels(tmp_path: Path) -> None:
    text = MODEL.replace("  labels:\n", "").replace("    source: ", "  source: ")
    text = text.replace("    entities: {customer_id: payer, shop_id: null}\n", "")
    text = text.replace("    event_timestamp: {column: at}\n", "  join_key: {row_number: n}\n")
    text = text.replace("    customers: [age, region]\n    shops: [risk]\n", "    age: integer\n")

    assert _problems(tmp_path, payments=text) == [
        "payments:7: request: needs `labels`: a model of one table takes whole rows from its "
        "callers"
    ]


def test_two_tables_with_a_column_of_one_name_are_told_apart(tmp_path: Path) -> None:
    shops = SHOPS.replace("{risk:", "{age: number, risk:")
    model = MODEL.replace("shops: [risk]", "shops: [risk, age]")

    assert _problems(tmp_path, shops=shops, payments=model) == [
        "payments:9: features.shops[1]: 'age' is a column of customers as well: give it another "
        "name in shops, and this one under `from` there"
    ]


def test_table_and_model_of_one_name_are_told_apart(tmp_path: Path) -> None:
    named = CUSTOMERS.replace("attributes:\n", "attributes:\n  table_name: payments\n")

    assert _problems(tmp_path, other=named) == [
        "other:3: table_name: 'payments' is also the name of payments: give one of them another "
        "table_name"
    ]


def test_table_of_a_name_that_is_taken_leaves_models_of_the_other_one_alone(tmp_path: Path) -> None:
    named = SHOPS.replace("attributes:\n", "attributes:\n  table_name: customers\n")

    assert _problems(tmp_path, other=named) == [
        "other:3: table_name: 'customers' is also the name of customers: give one of them another "
        "table_name"
    ]


def test_assets_of_tables_come_before_those_of_the_model(tmp_path: Path) -> None:
    write_files(tmp_path, tables(payments=1))
    defs = dg.Definitions.merge(define_models(read_models(tmp_path)), resources())

    graph = defs.resolve_asset_graph()
    online = dg.AssetKey(["payments", "online_features"])

    assert {tuple(key.path) for key in graph.get(online).parent_keys} == {
        ("payments", "features"),
        ("customers", "online_features"),
        ("shops", "online_features"),
    }
    assert {job.name for job in defs.jobs or ()} >= {"customers_table", "payments_chain"}


def test_component_of_a_table_reads_what_its_file_says() -> None:
    attributes = {"source": {"file": "x.csv"}, "join_key": {"column": "id"}, "columns": ["a"]}

    component = FeatureTable(TableAttributes.model_validate(attributes).root)

    assert component.attributes.feature_names == ("a",)


def test_check_says_where_the_labels_lack_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, tables(payments=1))
    # There is a table of that name among those that ship.
    (tmp_path / "customers").rename(tmp_path / "payers")
    model = tmp_path / "payments" / "defs.yaml"
    model.write_text(MODEL.replace("    customers:", "    payers:"))
    (tmp_path / "payments" / "payments.csv").write_text("payer,shop_id,at\n")
    assert main(["check", str(tmp_path)]) == 1
    assert f"{model}:4: labels.source.file: the source file" in capsys.readouterr().out
