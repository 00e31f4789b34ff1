"""The Dagster component that a model file is an instance of."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from pydantic import BaseModel

from platform_assets.components.fields import ModelFields
from platform_assets.components.model_file import document_at, spec_of
from platform_assets.model_spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    Build = Callable[[ModelSpec], dg.Definitions]

_BUILDER: Final = "platform_assets.model_definitions"


def build_model(spec: ModelSpec) -> dg.Definitions:
    """Return the whole chain of one model."""
    # By name: the slices are imported once a model is built, not to check or document files.
    definitions: dg.Definitions = import_module(_BUILDER).build(spec)
    return definitions


class TabularModel(ModelFields, dg.Component, dg.Resolvable):
    """A tabular model, from its source to production, through every gate.

    Classification or regression over any mix of numbers, text categories, booleans and
    missing values.
    """

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the class that checks and documents a file's attributes.

        Not one that Dagster derives: derived classes take text for any field, and templates in
        it, so that a wrong type would be found late.
        """
        return ModelFields

    @classmethod
    def resolve_from_model(
        cls,
        context: dg.ResolutionContext,  # noqa: ARG003 # Dagster's signature
        model: BaseModel,
    ) -> TabularModel:
        """Return the component with the attributes that `model` checked."""
        given: dict[str, Any] = {name: getattr(model, name) for name in model.model_fields_set}
        return cls(**given)

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return who owns the component and how it is found."""
        return dg.ComponentTypeSpec(owners=["team:ml-platform"], tags=["model", "tabular"])

    def spec(self, path: Path) -> ModelSpec:
        """Return the model; `path` is the model file or its folder.

        Raises:
            ModelFileError: for fields that contradict each other.
        """
        return spec_of(self, document_at(path))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the whole chain of the model."""
        return build_model(self.spec(context.path))
