"""Feature tables as used by a model: their columns, types and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from platform_assets.components.diagnostics import FieldPath
from platform_assets.model_spec import FeatureSpec, FeatureTableSpec, LabelKey, ModelSpec
from platform_assets.model_spec.fields import suggestion

Tables = Mapping[str, FeatureTableSpec]
"""Feature tables by name."""
Problem = tuple[FieldPath, str]


def find_table_problems(
    spec: ModelSpec, tables: Tables, broken: Callable[[str], bool]
) -> Iterator[Problem]:
    """Yield a model's references to tables, columns or keys that do not exist.

    `broken` says whether a table has a file, which must then be invalid.
    """
    if spec.labels is None:
        return
    keys = {entity.column for entity in spec.labels.entities}
    known: dict[str, list[FeatureSpec]] = {}
    for index, feature in enumerate(spec.features):
        place = ("attributes", "features", index)
        table = tables.get(feature.table)
        if feature.table not in known:
            known[feature.table] = [] if table is None else list(table.features)
            if table is None:
                yield place, _no_table(feature.table, tables, broken)
            elif table.join_key.name not in keys:
                yield (
                    place,
                    f"{feature.table} is read by {table.join_key.name}: list this key under "
                    "labels.entities",
                )
        names = [column.name for column in known[feature.table]]
        if table is not None and feature.name not in names:
            hint = suggestion(feature.name, names)
            message = f"{feature.table} has no column {feature.name}.{hint} It has "
            yield place, message + ", ".join(names)
    used = {tables[name].join_key.name for name in known if name in tables}
    for index, key in enumerate(spec.labels.entities):
        if key.column not in used and all(name in tables for name in known):
            message = f"no table of the model is read by {key.column}: remove it"
            yield ("attributes", "labels", "entities", index), message
    yield from _unequal_keys(spec, tables)


def _no_table(name: str, tables: Tables, broken: Callable[[str], bool]) -> str:
    if broken(name):
        return f"correct the file of feature table {name} first: make check says what is wrong"
    listed = ", ".join(sorted(tables)) or "none"
    return f"there is no feature table {name}.{suggestion(name, tables)} There are {listed}"


def _unequal_keys(spec: ModelSpec, tables: Tables) -> Iterator[Problem]:
    first: dict[str, FeatureTableSpec] = {}
    for index, feature in enumerate(spec.features):
        table = tables.get(feature.table)
        if table is None:
            continue
        other = first.setdefault(table.join_key.name, table)
        if other.join_key.dtype != table.join_key.dtype:
            yield (
                ("attributes", "features", index),
                f"{table.table_name} and {other.table_name} have a key {table.join_key.name} of "
                "two types: give both the same type",
            )
            return


def with_tables(spec: ModelSpec, tables: Tables) -> ModelSpec:
    """Set the types of a multi-table model's columns and keys to those of the tables."""
    if spec.labels is None:
        return spec
    used = [tables[name] for name in dict.fromkeys(feature.table for feature in spec.features)]
    columns = {table.name: {feature.name: feature for feature in table.features} for table in used}
    types = {table.join_key.name: table.join_key.dtype for table in used}
    stored = [
        replace(columns[feature.table][feature.name], source_column="", table=feature.table)
        for feature in spec.features
    ]
    entities = tuple(
        LabelKey(entity.column, types.get(entity.column, entity.dtype), entity.source_column)
        for entity in spec.labels.entities
    )
    return replace(
        spec,
        labels=replace(spec.labels, entities=entities),
        join_key=entities[0].join_key,
        features=(*stored, *spec.request),
        tables=tuple(used),
    )
