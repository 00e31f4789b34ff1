"""The JSON schema of a model file, for editors."""

from __future__ import annotations

from typing import Any

from platform_assets.components.messages import ATTRIBUTES
from platform_assets.components.model_file import COMPONENT_TYPE


def file_schema() -> dict[str, Any]:
    """Return the schema of a whole file: `type` and `attributes`, each field with its meaning."""
    attributes = ATTRIBUTES.json_schema()
    definitions = attributes.pop("$defs")
    # In a mapping of features the key is the name.
    named = definitions["FeatureSpec"]
    options = {name: one for name, one in named["properties"].items() if name != "name"}
    rest = {key: value for key, value in named.items() if key != "required"}
    definitions["FeatureOptions"] = rest | {"title": "FeatureOptions", "properties": options}
    _, mapping = attributes["properties"]["features"]["anyOf"]
    mapping["additionalProperties"]["anyOf"][0] = {"$ref": "#/$defs/FeatureOptions"}
    for group in (attributes, *definitions.values()):
        for field in group.get("properties", {}).values():
            if isinstance(field.get("default"), dict):  # that of a group is those of its fields
                del field["default"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Model file",
        "type": "object",
        "properties": {"type": {"const": COMPONENT_TYPE}, "attributes": attributes},
        "required": ["type", "attributes"],
        "additionalProperties": False,
        "$defs": definitions,
    }
