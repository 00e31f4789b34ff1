"""What people see of the data in the Dagster UI."""

from __future__ import annotations

from typing import Any, Final

from dagster import MetadataValue, TableRecord

from platform_assets.features.pictures import class_picture, target_picture
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import ModelSpec, Task

_QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def data_metadata(source: SourceTable, data: FeatureData, spec: ModelSpec) -> dict[str, Any]:
    """Metadata of `features` that tells of its content, without what tells of its place."""
    columns = source.table.schema
    return {
        "dagster/row_count": data.rows,
        "entities": data.entities,
        "labels": data.rows - source.table[spec.target.name].null_count,
        "null_counts": MetadataValue.json(dict(data.nulls)),
        "ignored_columns": MetadataValue.json(list(source.ignored)),
        "columns": MetadataValue.table(
            [TableRecord({"column": one.name, "type": str(one.type)}) for one in columns]
        ),
        **_target_metadata(source, spec),
    }


def _target_metadata(source: SourceTable, spec: ModelSpec) -> dict[str, Any]:
    name = spec.target.name
    values = source.table[name].drop_null()
    if spec.task is Task.REGRESSION:
        import pyarrow.compute as pc

        found = pc.quantile(values, q=list(_QUANTILES)).to_pylist()
        quantiles = {f"{q:.0%}": value for q, value in zip(_QUANTILES, found, strict=True)}
        return {
            "target_quantiles": MetadataValue.json(quantiles),
            "target_picture": MetadataValue.md(target_picture(name, values)),
        }
    rows = _rows_per_class(source, spec)
    return {
        "rows_per_class": MetadataValue.json(rows),
        "target_picture": MetadataValue.md(class_picture(name, rows)),
    }


def _rows_per_class(source: SourceTable, spec: ModelSpec) -> dict[str, int]:
    names = spec.target.class_names or tuple(str(label) for label in source.classes)
    counted = source.table.group_by(spec.target.name).aggregate([([], "count_all")])
    by_label = {row[spec.target.name]: row["count_all"] for row in counted.to_pylist()}
    return {name: by_label[label] for name, label in zip(names, source.classes, strict=True)}
