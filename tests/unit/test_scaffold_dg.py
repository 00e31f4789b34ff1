"""`dg scaffold defs` of the model component, in this process; tests/integration runs `dg`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from dagster.components.testing import DefsFolderSandbox, create_defs_folder_sandbox

from platform_assets.components import TabularModel
from platform_assets.components.model_file import read_model
from tests.support import tables


@pytest.fixture
def sandbox() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as running:
        yield running


@pytest.mark.slow
def test_model_is_named_after_its_folder(sandbox: DefsFolderSandbox, tmp_path: Path) -> None:
    table, target = tables.patients(tmp_path)
    params = {"csv": str(table), "target": target, "key": "patient"}

    folder = sandbox.scaffold_component(TabularModel, "wards", params)

    spec = read_model(folder / "defs.yaml")
    assert spec.model_name == "wards"
    assert spec.join_key.column == "patient"


def test_without_a_table_the_file_is_to_be_filled(sandbox: DefsFolderSandbox) -> None:
    folder = sandbox.scaffold_component(TabularModel, "wards")

    assert "TabularModel" in (folder / "defs.yaml").read_text()


@pytest.mark.parametrize(
    ("params", "form", "sentence"),
    [
        ({"csv": "absent.csv", "target": "y"}, "yaml", "absent.csv does not exist"),
        ({"csv": "absent.csv"}, "yaml", "needs both --csv and --target"),
        ({"csv": "absent.csv", "target": "y"}, "python", "becomes a YAML file"),
    ],
)
def test_refusal_leaves_no_folder(
    sandbox: DefsFolderSandbox, params: dict[str, Any], form: Any, sentence: str
) -> None:
    with pytest.raises(click.ClickException, match=sentence):
        sandbox.scaffold_component(TabularModel, "wards", params, form)

    assert not (sandbox.defs_folder_path / "wards").exists()
