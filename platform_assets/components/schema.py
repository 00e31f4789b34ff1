"""The structure of a complete model file, and its JSON schema for editors."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.model_spec.fields import CONFIG

FILE_NAMES: Final = ("defs.yaml", "defs.yml")


@dataclass(frozen=True, config=CONFIG)
class ModelFile:
    """A model file."""

    type: Literal["platform_assets.components.TabularModel"]
    """The component that reads the file, platform_assets.components.TabularModel."""
    attributes: ModelSpec
    """The model."""


@dataclass(frozen=True, config=CONFIG)
class TableFile:
    """A file of a feature table."""

    type: Literal["platform_assets.components.FeatureTable"]
    """The component that reads the file, platform_assets.components.FeatureTable."""
    attributes: FeatureTableSpec
    """The table."""


FILE: Final = TypeAdapter(ModelFile)
TABLE_FILE: Final = TypeAdapter(TableFile)


def file_schema() -> dict[str, Any]:
    """Return the schema of a complete file of either kind, with the meaning of each field."""
    schema = TypeAdapter[ModelFile | TableFile](ModelFile | TableFile).json_schema()
    for group in schema["$defs"].values():
        for field in group.get("properties", {}).values():
            if isinstance(field.get("default"), dict):  # a group's default is that of its fields
                del field["default"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
