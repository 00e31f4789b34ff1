"""Metadata and pictures of the data for the Dagster UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dagster import MetadataValue

from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import SourceTable
from platform_assets.model_spec import ModelSpec, SourceSpec, Task
from platform_assets.resources import plots
from platform_assets.resources.metadata import table

if TYPE_CHECKING:
    import pyarrow as pa

_QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS: Final = 40
_SHOWN_CLASSES: Final = 30


def data_metadata(source: SourceTable, data: FeatureData, spec: SourceSpec) -> dict[str, Any]:
    """Return the metadata of `features` that describes its content, not its location."""
    columns = source.table.schema
    return {
        "dagster/row_count": data.rows,
        "entities": data.entities,
        **(_target_metadata(source, spec) if isinstance(spec, ModelSpec) else {}),
        "null_counts": MetadataValue.json(dict(data.nulls)),
        "ignored_columns": MetadataValue.json(list(source.ignored)),
        "columns": table({"column": column.name, "type": str(column.type)} for column in columns),
    }


def _target_metadata(source: SourceTable, spec: ModelSpec) -> dict[str, Any]:
    name = spec.target.name
    column = source.table[name]
    values, labels = column.drop_null(), source.table.num_rows - column.null_count
    if spec.task is Task.REGRESSION:
        import pyarrow.compute as pc

        values_at = pc.quantile(values, q=list(_QUANTILES)).to_pylist()
        quantiles = {f"{q:.0%}": value for q, value in zip(_QUANTILES, values_at, strict=True)}
        return {
            "labels": labels,
            "target_picture": MetadataValue.md(target_picture(name, values)),
            "target_quantiles": MetadataValue.json(quantiles),
        }
    counted = source.table.group_by(name).aggregate([([], "count_all")])
    by_label = {row[name]: row["count_all"] for row in counted.to_pylist()}
    rows = {str(label): by_label[label] for label in source.classes}
    return {
        "labels": labels,
        "target_picture": MetadataValue.md(class_picture(name, rows)),
        "rows_per_class": MetadataValue.json(rows),
    }


def class_picture(name: str, rows: Mapping[str, int]) -> str:
    """Draw the number of rows by class; the largest classes only, if there are many."""
    shown = dict(sorted(rows.items(), key=lambda item: -item[1])[:_SHOWN_CLASSES])
    figure, axes = plots.canvas(6, 3)
    axes.bar(range(len(shown)), list(shown.values()), color=plots.ACCENT)
    words = [plots.label(label) for label in shown]
    axes.set_xticks(range(len(shown)), words, rotation=45 if len(shown) > 4 else 0)
    return _inline(name, figure, axes)


def target_picture(name: str, values: pa.ChunkedArray) -> str:
    """Draw the histogram of a regression's target."""
    numbers = values.to_numpy()
    figure, axes = plots.canvas(6, 3)
    axes.hist(numbers, bins=_BINS, range=plots.span(numbers), color=plots.ACCENT)
    return _inline(name, figure, axes)


def _inline(name: str, figure: Any, axes: Any) -> str:
    axes.set_xlabel(plots.label(name), color=plots.INK)
    axes.set_ylabel("rows", color=plots.INK)
    return plots.inline(plots.png(figure), f"rows by {name}")
