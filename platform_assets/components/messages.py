"""Messages about invalid fields, with their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from platform_assets.components.diagnostics import FieldPath
from platform_assets.components.schema import ModelFile, TableFile
from platform_assets.model_spec import FOLLOWS
from platform_assets.model_spec.fields import LOADER_ONLY, as_yaml, suggestion

_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "dataclass_type": "a mapping of fields",
}


def explain(
    error: ValidationError, file: type[ModelFile | TableFile] = ModelFile
) -> Iterator[tuple[FieldPath, str]]:
    """Yield the place in a file of this kind and the message of each error."""
    for detail in error.errors(include_url=False):
        loc = tuple(part for part in detail["loc"] if part != "[key]")
        if detail["type"] != FOLLOWS:
            yield loc, _message(detail, loc, file)


def _fields(record: type) -> dict[str, FieldInfo]:
    """Return the fields of a record that a file may have, by their names in the file."""
    fields: dict[str, FieldInfo] = record.__pydantic_fields__  # type: ignore[attr-defined] # pydantic sets it
    named = {str(field.validation_alias or name): field for name, field in fields.items()}
    return {name: field for name, field in named.items() if not name.startswith(LOADER_ONLY)}


def _record_in(annotation: Any) -> type | None:
    """Return the record that an annotation is or holds, if any."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation
    records = (_record_in(part) for part in get_args(annotation))
    return next((record for record in records if record is not None), None)


def _message(detail: Mapping[str, Any], loc: FieldPath, file: type) -> str:
    kind, value = detail["type"], detail["input"]
    known = _fields(_record_at(loc[:-1], file))
    field = known.get(str(loc[-1])) if loc else None
    if kind == "missing":
        return f"is missing: {' '.join(((field and field.description) or 'it is needed').split())}"
    if kind == "unexpected_keyword_argument":
        listed = f"{suggestion(str(loc[-1]), known)} Known here: {', '.join(sorted(known))}"
        return f"is not a known field.{listed}"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind.endswith(("too_short", "too_long")):
        return "needs" + str(detail["msg"]).partition("should have")[2]
    # pydantic's messages on literals and bounds are good.
    wanted = _WANTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    if value is None:
        required = field is None or field.is_required()
        advice = "give one" if required else "leave the field out for its default"
        return f"has no value: it must be {wanted}; {advice}"
    hint = ""
    if kind == "string_type" and not isinstance(value, (Mapping, list)):
        hint = "; put it in quotes (YAML reads yes, no, on and off as true and false)"
    return f"must be {wanted}, not {as_yaml(value)}{hint}"


def _record_at(path: Iterable[object], file: type) -> type:
    """Return the record whose fields stand at `path`."""
    record = file
    for part in path:
        field = _fields(record).get(str(part))
        record = (field and _record_in(field.annotation)) or record
    return record
