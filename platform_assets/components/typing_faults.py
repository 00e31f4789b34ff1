"""The types of a model file's fields, and what is said where they do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from platform_assets.components.fields import FeatureFields, FeatureOptions, ModelFields
from platform_assets.components.problems import Fault, FieldPath

_WANTED: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
}


def read_fields(attributes: Any) -> tuple[ModelFields | None, list[Fault]]:
    """Return the typed fields, or None and what is wrong with each that is wrong."""
    try:
        return ModelFields.model_validate(attributes), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [_fault(detail, attributes) for detail in details]


def as_written(path: FieldPath, attributes: Any) -> FieldPath:
    """Name the feature of a path by its key where the file has a mapping of features."""
    features = attributes.get("features") if isinstance(attributes, Mapping) else None
    if len(path) > 1 and path[0] == "features" and isinstance(features, Mapping):
        rest = path[2:] if path[2:] != ("name",) else ()
        return ("features", list(features)[int(str(path[1]))], *rest)
    return path


def _fault(detail: Mapping[str, Any], attributes: Any) -> Fault:
    loc = detail["loc"]
    path = tuple(part for part in as_written(loc, attributes) if part != "[key]")
    return Fault(path, _message(detail, loc))


def _message(detail: Mapping[str, Any], loc: tuple[int | str, ...]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "missing":
        return f"is missing: {_meaning(loc)}"
    if kind == "extra_forbidden":
        return _unknown(str(loc[-1]), _group(loc[:-1]))
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "too_short":
        return "needs at least one entry"
    wanted = _WANTED.get(kind)
    if wanted is None:  # literals and bounds, of which pydantic's words are good
        wanted = detail["msg"].removeprefix("Input should be ")
    if value is None:
        advice = "give one" if _required(loc) else "leave the field out for its default"
        return f"has no value: it must be {wanted}; {advice}"
    hint = ""
    if kind == "string_type" and not isinstance(value, (Mapping, list)):
        hint = "; put it in quotes (YAML reads yes, no, on and off as true and false)"
    return f"must be {wanted}, not {shown(value)}{hint}"


def _unknown(name: str, group: type[BaseModel]) -> str:
    known = list(group.model_fields)
    if group is FeatureFields:
        known = [*FeatureOptions.model_fields, "name"]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean `{near[0]}`?" if near else ""
    return f"is no field of a model file.{guess} Here are known: {', '.join(sorted(known))}"


def _required(loc: tuple[int | str, ...]) -> bool:
    field = _group(loc[:-1]).model_fields.get(str(loc[-1]))
    return field is None or field.is_required()


def _meaning(loc: Iterable[int | str]) -> str:
    *above, name = loc
    field = _group(above).model_fields.get(str(name))
    text = (field.description or "it is needed") if field else "it is needed"
    return " ".join(text.split())


def _group(loc: Iterable[int | str]) -> type[BaseModel]:
    """Return the class whose fields stand at `loc`."""
    group: type[BaseModel] = ModelFields
    for part in loc:
        if isinstance(part, str) and part in group.model_fields:
            group = _model_in(group.model_fields[part].annotation) or group
    return group


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)


def shown(value: object) -> str:
    """Write a value as YAML would, short enough for a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
