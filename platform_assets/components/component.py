"""The Dagster components that model files and table files are instances of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, cast

import dagster as dg
from pydantic import BaseModel, BeforeValidator, RootModel, TypeAdapter

from platform_assets.components.model_file import (
    complete,
    complete_table,
    document_at,
    tables_beside,
)
from platform_assets.components.scaffold.scaffolder import TableScaffolder
from platform_assets.model_spec import FeatureTableSpec, ModelSpec


def _by_names_of_files(kind: type) -> BeforeValidator:
    """Take fields by the names that files give them, and by no other."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return BeforeValidator(
        lambda given: adapter.validate_python(given, by_alias=True, by_name=False)
    )


class Attributes(RootModel[Annotated[ModelSpec, _by_names_of_files(ModelSpec)]]):
    """The attributes of a model file, as Dagster wants to have them described."""


class TableAttributes(RootModel[Annotated[FeatureTableSpec, _by_names_of_files(FeatureTableSpec)]]):
    """The attributes of a table file, as Dagster wants to have them described."""


def build_model(spec: ModelSpec) -> dg.Definitions:
    """Return the whole chain of one model."""
    # Here: the slices are imported once a model is built, not to check or document files.
    from platform_assets.model_definitions import build

    return build(spec)


def build_table(spec: FeatureTableSpec) -> dg.Definitions:
    """Return the assets of one feature table, and what reads them again."""
    from platform_assets import model_definitions

    return model_definitions.build_table(spec)


@dataclass
class _FileComponent(dg.Component, dg.Resolvable):
    """A component of a file whose attributes the class of `model` checks and documents.

    Not one that Dagster derives: derived classes take text for any field, and templates in it, so
    that a wrong type would be found late.
    """

    attributes: Any

    @classmethod
    def resolve_from_model(
        cls,
        context: dg.ResolutionContext,  # noqa: ARG003 # Dagster's signature
        model: BaseModel,
    ) -> Self:
        """Return the component with the attributes that `model` checked."""
        return cls(cast("RootModel[Any]", model).root)


@dg.scaffold_with(TableScaffolder)
@dataclass
class TabularModel(_FileComponent):
    """A tabular model, from its source to production, through every gate.

    Classification or regression over any mix of numbers, text categories, booleans and
    missing values.
    """

    attributes: ModelSpec

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the class that checks and documents a file's attributes."""
        return Attributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return who owns the component and how it is found."""
        return dg.ComponentTypeSpec(owners=["team:ml-platform"], tags=["model", "tabular"])

    def spec(self, path: Path) -> ModelSpec:
        """Return the model; `path` is the model file or its folder.

        Raises:
            ModelFileError: for a name, a path, a candidate or a table that does not exist.
        """
        return complete(self.attributes, document_at(path), tables_beside(path))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the whole chain of the model."""
        return build_model(self.spec(context.path))


@dataclass
class FeatureTable(_FileComponent):
    """A table of features with a key, which any number of models may read."""

    attributes: FeatureTableSpec

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the class that checks and documents a file's attributes."""
        return TableAttributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return who owns the component and how it is found."""
        return dg.ComponentTypeSpec(owners=["team:ml-platform"], tags=["features"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the assets of the table."""
        return build_table(complete_table(self.attributes, document_at(context.path)))
