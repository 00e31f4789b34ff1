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
    """Creates the model file as `make model` does."""

    @classmethod
    def get_scaffold_params(cls) -> type[TableParams]:
        """Return the parameters of the command."""
        return TableParams

    def scaffold(self, request: dg.ScaffoldRequest[TableParams]) -> None:
        """Write `defs.yaml` into the folder made by Dagster, or say why not and remove it.

        Without a table it is the empty one that Dagster creates for any component.
        """
        if request.params == TableParams():
            scaffold_component(request)
            return
        # Imported here: Dagster only needs the parameters when it lists components.
        from platform_assets.components.scaffold.command import make_model

        folder = request.target_path.absolute()
        try:
            model_request = _to_model_request(request)
            outcome = make_model(model_request, folder.parent, folder.name, click.echo, others=())
        except ScaffoldError as error:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise click.ClickException(f"no model file was made: {error}") from error
        click.echo("\n".join(outcome.lines()))


def _to_model_request(request: dg.ScaffoldRequest[TableParams]) -> ModelRequest:
    params = request.params
    if params.csv is None or params.target is None:
        raise ScaffoldError("a table needs both --csv and --target")
    if request.scaffold_format != "yaml":
        raise ScaffoldError("a table becomes a YAML file: leave --format out")
    name = params.name or valid_model_name(request.target_path.name)
    fields = params.model_dump(exclude={"csv", "target", "name"})
    return ModelRequest(params.csv, params.target, name=name, **fields)
