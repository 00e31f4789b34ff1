"""The reference of a model file's fields, as a Markdown table generated from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from platform_assets.components.schema import file_schema

Schema = dict[str, Any]

_TYPES: Final = {"array": "list", "object": "mapping", "string": "text", "boolean": "true or false"}
_BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference_table() -> str:
    """Return a table with a row for each field of a model: name, type, default, meaning.

    A group shared by several fields is listed once, at the model's own field.
    """
    definitions = file_schema()["$defs"]
    model = definitions["ModelSpec"]
    return _table(_rows(model, definitions, "", _homes(model, definitions)))


def table_reference() -> str:
    """Return the same for a feature table, without the groups that a model also has."""
    definitions = file_schema()["$defs"]
    shared = {name: {} for name in definitions} | {
        "FeatureTableSpec": definitions["FeatureTableSpec"]
    }
    return _table(_rows(shared["FeatureTableSpec"], shared, "", {}))


def _table(rows: Iterator[str]) -> str:
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])


def _homes(record: Schema, definitions: Schema) -> dict[int, str]:
    """Return the field at which a group is listed, by the `id` of the group."""
    homes: dict[int, str] = {}
    for name, field in record["properties"].items():
        if group := _record(field, definitions):
            homes.setdefault(id(group[0]), name)
    return homes


def _rows(
    record: Schema, definitions: Schema, above: str, homes: Mapping[int, str]
) -> Iterator[str]:
    for name, field in record.get("properties", {}).items():
        inside, entry = _record(field, definitions) or ({}, "")
        default = _format_default(field["default"]) if "default" in field else ""
        if name in record.get("required", ()):
            default = "required"
        meaning = field.get("description") or inside.get("description", "")
        meaning = " ".join(meaning.split()).replace("|", "\\|")
        home = homes.get(id(inside), f"{above}{name}")
        if home != f"{above}{name}":
            meaning, inside = f"{meaning} Its fields are those of `{home}`.", {}
        yield f"| `{above}{name}` | {_type(field, definitions)} | {default} | {meaning} |"
        yield from _rows(inside, definitions, f"{above}{name}.{entry}", homes)


def _record(field: Schema, definitions: Schema, entry: str = "") -> tuple[Schema, str] | None:
    """Return the group of fields that a field is or contains, and how its entries are written."""
    if "$ref" in field:
        group = _resolve(field, definitions)
        return (group, entry) if "properties" in group else None
    parts = [(option, entry) for option in field.get("anyOf", ())]
    parts += [(field[name], "*.") for name in ("items", "additionalProperties") if name in field]
    records = (
        _record(option, definitions, mark) for option, mark in parts if isinstance(option, dict)
    )
    return next((record for record in records if record), None)


def _resolve(field: Schema, definitions: Schema) -> Schema:
    group: Schema = definitions[field["$ref"].rpartition("/")[2]]
    return group


def _type(field: Schema, definitions: Schema) -> str:
    if "$ref" in field:
        field = _resolve(field, definitions)
        return "fields" if "properties" in field else _type(field, definitions)
    if "anyOf" in field:
        kinds = [
            _type(option, definitions) for option in field["anyOf"] if option.get("type") != "null"
        ]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind: str = field.get("format") or field.get("type", "any")
    bounds = [f"{sign} {field[name]}" for name, sign in _BOUNDS.items() if name in field]
    return ", ".join([_TYPES.get(kind, kind), *bounds])


def _format_default(default: Any) -> str:
    if default in (None, "", [], {}):
        return "none"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"
