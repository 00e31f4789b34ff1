"""The Dagster components of model files and table files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, cast

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


def _by_file_names(kind: type) -> BeforeValidator:
    """Accept fields only by their names in files."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return BeforeValidator(
        lambda value: adapter.validate_python(value, by_alias=True, by_name=False)
    )


class Attributes(RootModel[Annotated[ModelSpec, _by_file_names(ModelSpec)]]):
    """The attributes of a model file, as Dagster wants to have them described."""


class TableAttributes(RootModel[Annotated[FeatureTableSpec, _by_file_names(FeatureTableSpec)]]):
    """The attributes of a table file, as Dagster wants to have them described."""


def build_definitions(spec: ModelSpec | FeatureTableSpec) -> dg.Definitions:
    """Return the definitions of a model's whole chain, or of a feature table."""
    # Imported here: building a model needs the slices; checking and documenting files does not.
    from platform_assets.model_definitions import build

    return build(spec)


@dataclass
class _FileComponent(dg.Component, dg.Resolvable, ABC):
    """A component of a file whose attributes the class `checked_by` checks and documents.

    Not one that Dagster derives: derived classes take text for any field, and templates in it, so
    that a wrong type would be found late.
    """

    attributes: Any
    checked_by: ClassVar[type[RootModel[Any]]]
    found_by: ClassVar[list[str]]

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the class that checks and documents a file's attributes."""
        return cls.checked_by

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return who owns the component and how it is found."""
        return dg.ComponentTypeSpec(owners=["team:ml-platform"], tags=cls.found_by)

    @classmethod
    def resolve_from_model(
        cls,
        context: dg.ResolutionContext,  # noqa: ARG003 # Dagster's signature
        model: BaseModel,
    ) -> Self:
        """Return the component with the attributes that `model` checked."""
        return cls(cast("RootModel[Any]", model).root)

    @abstractmethod
    def spec(self, path: Path) -> ModelSpec | FeatureTableSpec:
        """Return the model or the table; `path` is its file or the folder of that."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the whole chain of the model, or the assets of the table."""
        return build_definitions(self.spec(context.path))


@dg.scaffold_with(TableScaffolder)
@dataclass
class TabularModel(_FileComponent):
    """A tabular model, from its source to production, through every gate.

    Classification or regression over any mix of numbers, text categories, booleans and
    missing values.
    """

    attributes: ModelSpec
    checked_by = Attributes
    found_by = ["model", "tabular"]  # noqa: RUF012 # a class variable of the base

    def spec(self, path: Path) -> ModelSpec:
        """Return the model; `path` is the model file or its folder.

        Raises:
            ModelFileError: for a name, a path, a candidate or a table that does not exist.
        """
        return complete(self.attributes, document_at(path), tables_beside(path))


@dataclass
class FeatureTable(_FileComponent):
    """A table of features with a key, which any number of models may read."""

    attributes: FeatureTableSpec
    checked_by = TableAttributes
    found_by = ["features"]  # noqa: RUF012 # a class variable of the base

    def spec(self, path: Path) -> FeatureTableSpec:
        """Return the table; `path` is the table file or its folder."""
        return complete_table(self.attributes, document_at(path))
