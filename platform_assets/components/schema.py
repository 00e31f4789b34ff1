"""The JSON schema of a model file, for editors."""

from __future__ import annotations

from typing import Any

from platform_assets.components.fields import ModelFields
from platform_assets.components.model_file import COMPONENT_TYPE


def file_schema() -> dict[str, Any]:
    """Return the schema of a whole file: `type` and `attributes`, each field with its meaning."""
    attributes = ModelFields.model_json_schema()
    definitions = attributes.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Model file",
        "type": "object",
        "properties": {"type": {"const": COMPONENT_TYPE}, "attributes": attributes},
        "required": ["type", "attributes"],
        "additionalProperties": False,
        "$defs": definitions,
    }
