"""What is inferred of a table, and why: one quirk at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.scaffold.command import draft_model
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.inference import infer
from platform_assets.components.scaffold.names import FEATURE, identifier, valid_model_name, words
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError
from platform_assets.components.scaffold.table import profile_table
from platform_assets.model_spec import EventTime, FeatureSpec, JoinKey, Target, Task
from platform_assets.resources.source import ColumnsError
from serving_gateway.contract import DType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 60


def drafted(folder: Path, text: str, target: str = "y", **asked: str) -> Draft:
    (folder / "shops.csv").write_text(text, encoding="utf-8")
    request = ModelRequest(str(folder / "shops.csv"), target, **asked)
    return infer(profile_table(request), request, NOW)


def table(**columns: Any) -> str:
    """A CSV; a column is a list that repeats, or a function of the row's number from 0."""
    lines = [",".join(columns)]
    for row in range(ROWS):
        cells = (one(row) if callable(one) else one[row % len(one)] for one in columns.values())
        lines.append(",".join(map(str, cells)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("cells", "dtype", "nullable"),
    [
        ([1, 2, 3], DType.INT64, False),
        ([1, "NA", 3], DType.INT64, True),
        ([1.5, 2, ""], DType.FP32, True),
        (["1.0", "2.0"], DType.FP32, False),
        ([16_777_217.5, 2], DType.FP64, False),
        ([1e39, 2.5], DType.FP64, False),
        (["true", "False"], DType.BOOL, False),
        (["TRUE", "FALSE", "NA"], DType.BOOL, True),
        ([0, 1], DType.INT64, False),
        (["a", "b", ""], DType.BYTES, True),
        (["007", "012"], DType.BYTES, False),
        (["1_000", "5"], DType.BYTES, False),
    ],
)
def test_feature_has_the_type_that_the_casting_rules_take(
    tmp_path: Path, cells: list[Any], dtype: DType, nullable: bool
) -> None:
    draft = drafted(tmp_path, table(x=cells, y=["a", "b"]))

    assert draft.spec.features == (FeatureSpec("x", dtype, nullable),)
    assert draft.feature_reasons["x"]


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["k"], "the same value in every row"),
        ([5], "the same value in every row"),
        ([5, "NA"], "the same value in every row"),
        (["TRUE", "NA"], "the same value in every row"),
        (["TRUE", "True"], "the same value in every row"),
        ([""], "no row has a value"),
        (lambda row: row + 100, "numbers the rows"),
        (lambda row: f"2024-01-{row % 28 + 1:02}", "a time, which no model reads"),
        (lambda row: f"note {row % 50}", "50 different texts in 60 rows"),
        (["inf", 2.5], "has infinite values"),
    ],
)
def test_column_that_tells_nothing_is_left_out_with_the_reason(
    tmp_path: Path, cells: Any, why: str
) -> None:
    text = table(when=lambda row: f"2024-02-{row % 28 + 1:02}", x=[1, 2, 4], z=cells, y=["a", "b"])

    draft = drafted(tmp_path, text)

    assert [one.name for one in draft.spec.features] == ["x"]
    assert why in draft.left_out["z"]


@pytest.mark.parametrize(
    ("columns", "key", "why"),
    [
        ({"shop_id": lambda row: row * 7}, JoinKey("shop_id"), "named like an identifier"),
        (
            {"x": [1], "shop": lambda row: f"s{row}"},
            JoinKey("shop", DType.BYTES),
            "named like an identifier",
        ),
        (
            {"town": lambda row: f"t{row}"},
            JoinKey("town", DType.BYTES),
            "a text that is different in every row",
        ),
        (
            {"code": lambda row: f"{row:05}"},
            JoinKey("code", DType.BYTES),
            "with leading zeros",
        ),
        ({"n": lambda row: row + 5}, JoinKey("n"), "numbers the rows"),
        ({"price": lambda row: row * 1.5}, JoinKey(row_number="row_id"), "they are numbered"),
        ({"pay": lambda row: row * 7 % 401}, JoinKey(row_number="row_id"), "they are numbered"),
        ({"shop_id": [1, 2, 3]}, JoinKey(row_number="row_id"), "shop_id repeats"),
    ],
)
def test_key_is_what_names_a_row(
    tmp_path: Path, columns: dict[str, Any], key: JoinKey, why: str
) -> None:
    draft = drafted(tmp_path, table(**columns, z=[1, 2], y=["a", "b"]))

    assert draft.spec.join_key == key
    assert why in draft.reasons["join_key"]


def test_entity_that_comes_again_is_the_key_where_each_time_has_one_row(tmp_path: Path) -> None:
    text = table(
        shop_id=[1, 2, 3], at=lambda row: f"2024-01-01T{row // 3:02}:00:00Z", x=[1, 2], y=[3, 5]
    )

    draft = drafted(tmp_path, text)

    assert draft.spec.join_key == JoinKey("shop_id")
    assert draft.spec.event_time == EventTime("at")
    assert "event_timestamp" in draft.reasons


def test_time_without_an_offset_is_in_utc_and_says_so(tmp_path: Path) -> None:
    text = table(
        born=lambda row: f"1990-01-{row % 28 + 1:02}",
        delivered=lambda row: f"2024-03-{row % 28 + 1:02}",
        sold_at=lambda row: f"2024-02-{row % 28 + 1:02} 10:00:00",
        x=[1, 2],
        y=["a", "b"],
    )

    draft = drafted(tmp_path, text)

    assert draft.spec.event_time == EventTime("sold_at", "UTC")
    assert "also in delivered" in draft.reasons["event_timestamp"]
    assert {"born", "delivered"} <= draft.left_out.keys()


def test_birthday_alone_is_not_the_time_of_a_row(tmp_path: Path) -> None:
    draft = drafted(tmp_path, table(birth_date=lambda row: "1990-01-01", x=[1, 2], y=["a", "b"]))

    assert draft.spec.event_time is None


def test_old_rows_do_not_expire(tmp_path: Path) -> None:
    old = drafted(tmp_path, table(day=["1998-05-06"], x=[1, 2], y=["a", "b"]))
    new = drafted(tmp_path, table(day=["2025-05-06"], x=[1, 2], y=["a", "b"]))

    assert old.spec.ttl.days == 36_500
    assert "27 years old" in old.reasons["ttl"]
    assert new.spec.ttl.days == 3_650
    oldest = drafted(tmp_path, table(day=["1850-05-06"], x=[1, 2], y=["a", "b"]))
    assert "175 years old, and counts as expired" in oldest.reasons["ttl"]


OTHER_NOTATIONS = [
    lambda row: f'"{row + 100},{row:02}"',
    lambda row: f'"$1,{row + 100}.50"',
    lambda row: f"1.{row + 100} €",
    lambda row: f"{row + 1}%",
    lambda row: f"{row % 12 + 1:02}/{row % 28 + 1:02}/20{row % 26:02} 10:15",
    lambda row: f"{row % 28 + 1}.{row % 12 + 1}.20{row % 26:02}",
]


@pytest.mark.parametrize("cells", OTHER_NOTATIONS)
def test_number_in_another_notation_is_no_key_and_no_class(tmp_path: Path, cells: Any) -> None:
    draft = drafted(tmp_path, table(z=cells, x=[1, 2], y=["a", "b"]))

    assert draft.spec.join_key == JoinKey(row_number="row_id")
    assert "write 1234.5 or 2024-03-01" in draft.left_out["z"]
    with pytest.raises(ScaffoldError, match=r"numbers as 1234\.5, or say TASK=multiclass"):
        drafted(tmp_path, table(z=[1, 2], y=cells))
    draft = drafted(tmp_path, table(x=[1, 2], y=['"1,5"', '"2,5"']), task="binary")
    assert draft.spec.task is Task.BINARY


def test_few_cells_that_keep_a_column_from_being_numbers_are_named(tmp_path: Path) -> None:
    hint = "all but 1 of 60 cells are numbers: correct or empty those"
    few = drafted(tmp_path, table(x=lambda row: row % 9 if row else "?", y=["a", "b"]))
    many = drafted(tmp_path, table(z=lambda row: row / 7 if row else "-", x=[1, 2], y=["a", "b"]))

    assert hint in few.feature_reasons["x"]
    assert hint in many.left_out["z"]
    with pytest.raises(ScaffoldError, match=hint):
        drafted(tmp_path, table(x=[1, 2], y=lambda row: row % 3 if row else "y"))


def test_number_of_a_group_is_read_although_it_is_named_like_an_identifier(tmp_path: Path) -> None:
    draft = drafted(tmp_path, table(store_id=[1, 2, 3], sale_id=lambda row: row // 2, y=["a", "b"]))

    assert [one.name for one in draft.spec.features] == ["store_id"]
    assert "but 3 different ones repeat" in draft.feature_reasons["store_id"]
    assert "named like an identifier" in draft.left_out["sale_id"]


@pytest.mark.parametrize(
    ("header", "day"), [("valid_until", "2025"), ("expires_at", "2025"), ("checked", "2026")]
)
def test_time_to_come_is_not_the_time_of_a_row(tmp_path: Path, header: str, day: str) -> None:
    columns = {header: lambda row: f"{day}-12-{row % 28 + 1:02}", "x": [1, 2], "y": ["a", "b"]}

    assert drafted(tmp_path, table(**columns)).spec.event_time is None
    if day == "2026":
        with pytest.raises(ScaffoldError, match=r"times to come, up to 2026-12-28"):
            drafted(tmp_path, table(**columns), time=header)


def test_large_numbers_are_told_apart_and_named_where_they_cannot_be_the_key(
    tmp_path: Path,
) -> None:
    def huge(row: int) -> int:
        return 2**62 + row

    assert drafted(tmp_path, table(x=[1, 2], y=huge)).spec.task is Task.REGRESSION
    with pytest.raises(ScaffoldError, match=r"it has numbers beyond 2\*\*53"):
        drafted(tmp_path, table(n=huge, x=[1, 2], y=["a", "b"]), key="n")


@pytest.mark.parametrize("separator", ["", ";;", "\n", '"'])
def test_what_cannot_separate_is_refused(separator: str) -> None:
    with pytest.raises(ScaffoldError, match="is not a separator"):
        ModelRequest("t.csv", "y", separator=separator)
    assert ModelRequest("t.csv", "y", separator=r"\t").separator == "\t"


def test_table_in_the_home_of_an_unknown_user_is_refused_in_a_sentence() -> None:
    with pytest.raises(ScaffoldError, match=r"~nobody-here/t\.csv cannot be found"):
        draft_model(ModelRequest("~nobody-here/t.csv", "y"))


def test_header_without_rows_is_refused_as_that(tmp_path: Path) -> None:
    with pytest.raises(ScaffoldError, match="has a header and no rows"):
        drafted(tmp_path, "x,y\n")


@pytest.mark.parametrize(
    ("cells", "task", "type_"),
    [
        (["yes", "no"], Task.BINARY, DType.BYTES),
        (["true", "false"], Task.BINARY, DType.BOOL),
        ([0, 1], Task.BINARY, DType.INT64),
        ([0, 1, 2], Task.MULTICLASS, DType.INT64),
        (["01", "02", "03"], Task.MULTICLASS, DType.BYTES),
        (["a", "b", "c"], Task.MULTICLASS, DType.BYTES),
        (lambda row: row % 40, Task.REGRESSION, DType.FP64),
        ([1.5, 2.5], Task.REGRESSION, DType.FP64),
    ],
)
def test_task_follows_from_the_target(tmp_path: Path, cells: Any, task: Task, type_: DType) -> None:
    draft = drafted(tmp_path, table(x=[1, 2], y=cells))

    assert (draft.spec.task, draft.spec.target) == (task, Target("y", type_))
    assert draft.reasons["task"]


@pytest.mark.parametrize("cells", [["a", "b", ""], ["TRUE", "FALSE", "NA"], [1, 2, "NA"]], ids=str)
def test_rows_without_a_label_are_dropped(tmp_path: Path, cells: list[Any]) -> None:
    draft = drafted(tmp_path, table(x=[1, 2], y=cells))

    assert draft.spec.target.drop_missing
    assert "20 of 60 rows have none" in draft.reasons["target"]


@pytest.mark.parametrize(
    ("text", "asked", "sentence"),
    [
        (table(x=[1, 2], z=[1, 2]), {}, "has no column 'y': it has x, z"),
        (table(x=[1, 2], Y1=[1, 2]), {"target": "y1"}, "did you mean Y1?"),
        (table(x=[1, 2], y=["a"]), {}, "the same value in every row"),
        (table(x=[1, 2], y=["TRUE", "NA"]), {}, "the same value in every row"),
        (table(x=[1, 2], y=[5, "NA"]), {}, "the same value in every row"),
        (table(x=[1, 2], y=[""]), {}, "has 0 rows with a y"),
        ("x,y\n1,a\n2,b\n", {}, "has 2 rows with a y, and a model needs 30"),
        (table(x=[1, 2], y=lambda row: f"t{row}"), {}, "neither a number nor a class"),
        (table(x=[1, 2], y=["2024-01-01", "2024-01-02"]), {}, "has times"),
        (table(x=[1, 2], y=["inf", "1.5"]), {}, "infinite values"),
        (table(x=["k"], y=[1, 2]), {}, "has no column to learn y from (x: the same value"),
        ("y\n" + "1\n2\n" * 30, {}, "has no column to learn y from"),
        ("y,y\n" + "1,2\n" * 40, {}, "has several columns 'y'"),
        (table(x=[1, 2], y=[1, 2]), {"key": "x"}, "cannot be the key: it repeats"),
        (table(x=[1, 2], y=[1, 2]), {"key": "n"}, "has no column 'n' besides the target"),
        (table(x=[1, 2], y=[1, 2]), {"time": "x"}, "is not a time in every row"),
        (table(x=[1, 2], y=[1, 2]), {"task": "ranking"}, "'ranking' is not a task"),
        (table(x=[1, 2], y=["a", "b"]), {"task": "regression"}, "values that are not numbers"),
    ],
)
def test_what_cannot_be_inferred_is_refused_in_one_sentence(
    tmp_path: Path, text: str, asked: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ScaffoldError) as refused:
        drafted(tmp_path, text, **asked)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_person_says_is_not_inferred(tmp_path: Path) -> None:
    text = table(
        id=lambda row: row, name=lambda row: f"n{row}", x=[1, 2], y=[1, 2, 3],
        a=["2024-01-01"], b=["2024-01-02"],
    )  # fmt: skip

    draft = drafted(tmp_path, text, key="name", time="b", task="regression", name="mine")

    assert draft.spec.join_key == JoinKey("name", DType.BYTES)
    assert draft.spec.event_time == EventTime("b", "UTC")
    assert draft.spec.task is Task.REGRESSION
    assert draft.spec.model_name == "mine"
    assert draft.left_out.keys() == {"id", "a"}


def test_separator_that_is_ambiguous_has_to_be_said(tmp_path: Path) -> None:
    text = "y,a;y\n" + "1,2;3\n2,5;4\n" * 30

    with pytest.raises(ColumnsError, match="may be separated by commas or by semicolons"):
        drafted(tmp_path, text)

    assert drafted(tmp_path, text, separator=";").spec.source.separator == ";"


def test_types_of_parquet_are_those_of_its_columns(tmp_path: Path) -> None:
    file = tmp_path / "shops.parquet"
    columns = {
        "at": pa.array([datetime(2024, 1, 1, row % 24, tzinfo=UTC) for row in range(ROWS)]),
        "count": pa.array([row % 7 for row in range(ROWS)], pa.int32()),
        "share": pa.array([None if row == 3 else row / 7 for row in range(ROWS)], pa.float32()),
        "open": pa.array([row % 2 == 0 for row in range(ROWS)]),
        "kind": pa.array([f"k{row % 3}" for row in range(ROWS)]).dictionary_encode(),
        "tags": pa.array([["a"]] * ROWS),
        "y": pa.array([row % 2 for row in range(ROWS)]),
    }
    parquet.write_table(pa.table(columns), file)
    request = ModelRequest(str(file), "y")

    draft = infer(profile_table(request), request, NOW)

    assert draft.spec.event_time == EventTime("at")
    assert draft.spec.features == (
        FeatureSpec("count", DType.INT64),
        FeatureSpec("share", DType.FP32, nullable=True),
        FeatureSpec("open", DType.BOOL),
        FeatureSpec("kind", DType.BYTES),
    )
    assert "which is not read" in draft.left_out["tags"]


def test_files_of_a_folder_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "shops"
    for year in (2024, 2025):
        (folder / f"year={year}").mkdir(parents=True)
        (folder / f"year={year}" / "part.csv").write_text(table(x=[1, 2], y=["a", "b"]))
    request = ModelRequest(str(folder), "y")

    draft = infer(profile_table(request), request, NOW)

    assert draft.spec.features == (FeatureSpec("x", DType.INT64), FeatureSpec("year", DType.INT64))


def test_partition_without_a_value_may_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "shops"
    for region in ("__HIVE_DEFAULT_PARTITION__", "north", "south"):
        (folder / f"region={region}").mkdir(parents=True)
        (folder / f"region={region}" / "part.csv").write_text(table(x=[1, 2], y=["a", "b"]))
    request = ModelRequest(str(folder), "y")

    draft = infer(profile_table(request), request, NOW)

    assert draft.spec.features == (
        FeatureSpec("x", DType.INT64),
        FeatureSpec("region", DType.BYTES, nullable=True),
    )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("age", "age"),
        ("fixed acidity", "fixed_acidity"),
        ("Größe (cm)", "Grosse_cm"),
        ("나이", "nai"),
        ("年齢", "column_3"),
        ("1st", "column_1st"),
        ("label", "label_value"),
        ("prediction of sales", "column_prediction_of_sales"),
        ("size_y", "size_y_value"),
        ("TAKEN", "TAKEN_value"),
        ("x" * 200, "x" * 60),
    ],
)
def test_header_becomes_a_name_that_a_tensor_can_have(header: str, name: str) -> None:
    assert identifier(header, 3, {"taken"}, FEATURE) == name


def test_model_is_named_after_its_table() -> None:
    assert [valid_model_name(one) for one in ("2024 sales", "아파트", "年齢", "a-b")] == [
        "model_2024_sales",
        "apateu",
        "model",
        "a_b",
    ]


def test_words_of_a_header_are_those_that_a_person_reads() -> None:
    assert words("patientID") == {"patient", "id"}
    assert words("Loan_No.2") == {"loan", "no", "2"}
    assert "id" not in words("humidity")
