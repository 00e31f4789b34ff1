"""`outcomes` of a model file: what it means, and what is refused from the file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from platform_assets.components.__main__ import main
from platform_assets.components.loading import read_models
from platform_assets.components.model_file import read_model
from tests.support.model_files import MINIMAL, refused, write
from tests.support.several_tables import MODEL, tables, write_files


def _file(folder: Path, *lines: str) -> Path:
    return write(folder, MINIMAL + "".join(f"  {line}\n" for line in lines))


def test_source_of_outcomes_defaults_to_the_keys_and_target_of_the_model(tmp_path: Path) -> None:
    spec = read_model(
        _file(
            tmp_path,
            "outcomes:",
            "  source: {file: discharges.csv}",
            "  event_timestamp: {column: at}",
            "  outcome_delay: 30d",
        )
    )
    table, rule = spec.outcome_table, spec.outcome_rule

    assert table is not None
    assert table.source.file == str(tmp_path / "patients" / "discharges.csv")
    assert (table.join_key_names, table.event_timestamp) == (("patient_id",), "at")
    assert (table.target.name, table.target.drop_missing) == ("readmitted", True)
    assert (rule.delay, rule.within) == (timedelta(days=30), timedelta(days=30))


def test_model_without_outcomes_is_matured_at_once(tmp_path: Path) -> None:
    spec = read_model(_file(tmp_path))

    assert spec.outcome_table is None
    assert (spec.outcome_rule.delay, spec.outcome_rule.within) == (timedelta(), None)


def test_label_table_qualifies_as_source_of_outcomes(tmp_path: Path) -> None:
    text = MODEL.replace("  labels:\n", "  outcomes: labels\n  labels:\n    outcome_delay: 2d\n")
    write_files(tmp_path, tables(payments=1))
    (tmp_path / "payments" / "defs.yaml").write_text(text)

    [spec] = read_models(tmp_path).specs.values()

    table = spec.outcome_table
    assert table is not None
    assert table.source == spec.source
    assert [(one.name, one.source_column) for one in table.join_keys] == [
        ("customer_id", "payer"),
        ("shop_id", ""),
    ]
    assert spec.outcome_rule.delay == timedelta(days=2)


@pytest.mark.parametrize(
    ("outcomes", "field", "said"),
    [
        ("labels", "outcomes", "a model of one table does not have"),
        ("label", "outcomes", "write labels, or a mapping with a `source`"),
        ("{}", "outcomes", "is empty: give `source`, or `outcome_delay`"),
        ("{outcome: x}", "outcomes.outcome", "describes the rows of a source"),
        ("{outcome_delay: 1d, within: 2d}", "outcomes.within", "describes the rows of a source"),
        ("{source: {file: a.csv}, within: 2d}", "outcomes.within", "needs `event_timestamp`"),
        ("{source: {feast_view: a}}", "outcomes.source.feast_view", "is for feature tables"),
        (
            "{source: {file: a.csv}, entities: [ward]}",
            "outcomes.entities[0]",
            "'ward' is not a key of the model",
        ),
        ("{source: {file: a.csv}, entities: [ward]}", "outcomes.entities", "lacks patient_id"),
    ],
)
def test_outcomes_that_cannot_work_are_refused(
    tmp_path: Path, outcomes: str, field: str, said: str
) -> None:
    problems = refused(_file(tmp_path, f"outcomes: {outcomes}"))

    assert [one.field for one in problems if said in one.message] == [field], problems


def test_outcomes_by_row_number_are_refused(tmp_path: Path) -> None:
    text = MINIMAL.replace("{column: patient_id}", "{row_number: patient_id}")
    [problem] = refused(write(tmp_path, text + "  outcomes: {source: {file: a.csv}}\n"))

    assert problem.field == "outcomes.source"
    assert "has no column for the join key" in problem.message


def test_check_says_which_column_the_outcomes_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _file(tmp_path, "outcomes: {source: {file: discharges.csv}, outcome: back}")
    (file.parent / "patients.csv").write_text("patient_id,age,ward,smoker,weight,readmitted\n")
    (file.parent / "discharges.csv").write_text("patient_id,readmitted\n")

    assert main(["check", str(tmp_path)]) == 1

    said = capsys.readouterr().out
    assert "outcomes.source.file: the source file" in said
    assert "lacks back" in said
