"""The reference of a model file's fields, as a table in Markdown, from its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from platform_assets.components.schema import file_schema

Schema = dict[str, Any]

_TYPES: Final = {"array": "list", "object": "mapping", "string": "text", "boolean": "true or false"}
_BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def reference_table() -> str:
    """Return a row for each field of a model: name, type, default, meaning.

    A group that several fields have is listed once, at the field of the model that has it.
    """
    definitions = file_schema()["$defs"]
    model = definitions["ModelSpec"]
    return _table(_rows(model, definitions, "", _homes(model, definitions)))


def table_reference() -> str:
    """Return the same of a feature table; groups that a model has too are not repeated."""
    definitions = file_schema()["$defs"]
    shared = {name: {} for name in definitions} | {
        "FeatureTableSpec": definitions["FeatureTableSpec"]
    }
    return _table(_rows(shared["FeatureTableSpec"], shared, "", {}))


def _table(rows: Iterator[str]) -> str:
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])


def _homes(record: Schema, definitions: Schema) -> dict[int, str]:
    """Return the field of a record that lists a group, by the identity of the group."""
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
    """Return the group of fields that a field is or holds, and how an entry of it is written."""
    if "$ref" in field:
        group = _resolved(field, definitions)
        return (group, entry) if "properties" in group else None
    parts = [(one, entry) for one in field.get("anyOf", ())]
    parts += [(field[name], "*.") for name in ("items", "additionalProperties") if name in field]
    found = (_record(one, definitions, mark) for one, mark in parts if isinstance(one, dict))
    return next((one for one in found if one), None)


def _resolved(field: Schema, definitions: Schema) -> Schema:
    group: Schema = definitions[field["$ref"].rpartition("/")[2]]
    return group


def _type(field: Schema, definitions: Schema) -> str:
    if "$ref" in field:
        field = _resolved(field, definitions)
        return "fields" if "properties" in field else _type(field, definitions)
    if "anyOf" in field:
        kinds = [_type(one, definitions) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    kind: str = field.get("format") or field.get("type", "any")
    bounds = [f"{sign} {field[name]}" for name, sign in _BOUNDS.items() if name in field]
    return ", ".join([_TYPES.get(kind, kind), *bounds])


def _format_default(default: Any) -> str:
    if default in (None, "", [], {}):
        return "none"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"
