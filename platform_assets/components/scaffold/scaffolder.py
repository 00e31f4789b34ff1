"""`dg scaffold defs platform_assets.components.TabularModel <path> --csv ... --target ...`."""

from __future__ import annotations

import click
import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, ConfigDict

from platform_assets.components.scaffold.names import valid_model_name
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError


class TableParams(BaseModel):
    """What a model file is made from."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    csv: str | None = None
    """A CSV or Parquet file, a folder of them, or a pattern."""
    target: str | None = None
    """The column to predict."""
    name: str | None = None
    """Of the model; by default that of the table, or with dg that of the folder."""
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
        """Write `defs.yaml` into the folder that Dagster made, or say why not and remove it.

        Without a table it is the empty one that Dagster makes of any component.
        """
        if request.params == TableParams():
            scaffold_component(request)
            return
        # Here: Dagster asks for the parameters alone whenever it lists components.
        from platform_assets.components.scaffold.command import make_model

        folder = request.target_path.absolute()
        try:
            wanted = _wanted(request)
            outcome = make_model(wanted, folder.parent, folder.name, click.echo, others=())
        except ScaffoldError as error:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise click.ClickException(f"no model file was made: {error}") from error
        click.echo("\n".join(outcome.lines()))


def _wanted(request: dg.ScaffoldRequest[TableParams]) -> ModelRequest:
    given = request.params
    if given.csv is None or given.target is None:
        raise ScaffoldError("a table needs both --csv and --target")
    if request.scaffold_format != "yaml":
        raise ScaffoldError("a table becomes a YAML file: leave --format out")
    name = given.name or valid_model_name(request.target_path.name)
    asked = given.model_dump(exclude={"csv", "target", "name"})
    return ModelRequest(given.csv, given.target, name=name, **asked)
