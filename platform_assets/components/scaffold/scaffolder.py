"""`dg scaffold defs platform_assets.components.TabularModel <path> --csv ... --target ...`."""

from __future__ import annotations

import click
import dagster as dg
from pydantic import BaseModel, ConfigDict

from platform_assets.components.scaffold.names import valid_model_name
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError


class TableParams(BaseModel):
    """What a model file is made from."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    csv: str
    """A CSV or Parquet file, a folder of them, or a pattern."""
    target: str
    """The column to predict."""
    name: str | None = None
    """Of the model; by default that of its folder."""
    key: str | None = None
    """The column that names a row; inferred by default, as are the others."""
    time: str | None = None
    """The column with the time of a row."""
    task: str | None = None
    """binary, multiclass or regression."""
    separator: str | None = None
    """Of a CSV, where several fit."""


class TableScaffolder(dg.Scaffolder[TableParams]):
    """Makes the model file as `make model` does."""

    @classmethod
    def get_scaffold_params(cls) -> type[TableParams]:
        """Return what the command takes."""
        return TableParams

    def scaffold(self, request: dg.ScaffoldRequest[TableParams]) -> None:
        """Write `defs.yaml` into the folder that Dagster made, or say why not and remove it."""
        # Here: Dagster asks for the parameters alone whenever it lists components.
        from platform_assets.components.scaffold.command import make_model

        folder, given = request.target_path.absolute(), request.params
        asked = given.model_dump() | {"name": given.name or valid_model_name(folder.name)}
        if request.scaffold_format != "yaml" or request.append:
            raise click.ClickException("a model is a YAML file of its own: leave --format out")
        try:
            wanted = ModelRequest(asked.pop("csv"), **asked)
            outcome = make_model(wanted, folder.parent, folder.name, click.echo, others=())
        except ScaffoldError as error:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise click.ClickException(f"no model file was made: {error}") from error
        click.echo("\n".join(outcome.lines()))
