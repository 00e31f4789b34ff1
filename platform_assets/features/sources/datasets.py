"""Data sets that ship with installed packages; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.reader import (
    Progress,
    SourceTable,
    check_columns,
    ignored_columns,
    table_fingerprint,
)
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pandas as pd

_SKLEARN: Final = ("breast_cancer", "diabetes", "digits", "iris", "wine")


class DatasetReader:
    """A table of a package, or a generated one.

    `sklearn.<name>`, whose label is the column `target` (in words), `vega.<name>`, or
    `fraud.<name>`, which is made `scale` times as large.
    """

    def __init__(
        self, dataset: str, columns: Sequence[Column], key: str | None, scale: int = 1
    ) -> None:
        self._dataset, self._columns, self._key = dataset, columns, key
        self._scale = scale

    @property
    def name(self) -> str:
        """The name of the source in errors."""
        return f"the data set {self._dataset}"

    def fingerprint(self) -> str:
        """SHA-256 of the wanted columns of all rows."""
        return self.read(Progress()).fingerprint

    def revision(self) -> str | None:
        """None: only its rows show whether it has changed."""
        return None

    def read(self, progress: Progress) -> SourceTable:
        """Load the data set."""
        import pyarrow as pa

        from platform_assets.features.sources.builder import TableBuilder

        frame = _load(self._dataset, self._scale)
        names = [str(name) for name in frame.columns]
        check_columns(self.name, names, self._columns)
        headers = list(dict.fromkeys(column.header for column in self._columns))
        try:
            batch = pa.RecordBatch.from_pandas(frame[headers], preserve_index=False)
        except pa.ArrowException as exc:
            raise SourceError(
                f"{self.name} has a column of several types: {exc}",
                "leave that column out of the model file, and run again",
            ) from exc
        builder = TableBuilder(self._columns, self._key, progress)
        builder.add_batch(self.name, headers, batch)
        table = builder.build(self.name, table_fingerprint)
        return replace(table, ignored=ignored_columns(names, self._columns))


def _load(dataset: str, scale: int) -> pd.DataFrame:
    # `local_data` reads the files of the package and never uses the network.
    from sklearn import datasets
    from vega_datasets import local_data

    from platform_assets.features.sources.fraud import fraud_tables

    generators = {f"fraud.{name}": make for name, make in fraud_tables().items()}
    if dataset in generators:
        return generators[dataset](scale)
    loaders = {f"sklearn.{name}": getattr(datasets, f"load_{name}") for name in _SKLEARN}
    vega = [name.replace("-", "_") for name in local_data.list_datasets()]
    if dataset not in loaders and dataset not in {f"vega.{name}" for name in vega}:
        known = ", ".join([*generators, *loaders, *(f"vega.{name}" for name in vega)])
        raise SourceError(f"there is no data set {dataset}", f"use one of {known}, and run again")
    if dataset in loaders:
        return _with_class_names(loaders[dataset](as_frame=True))
    frame: pd.DataFrame = getattr(local_data, dataset.partition(".")[2])()
    return frame


def _with_class_names(data: Any) -> pd.DataFrame:
    """Return the rows of a scikit-learn data set, with class names where it has them."""
    frame: pd.DataFrame = data.frame
    names = data.get("target_names")
    if names is None or names.dtype.kind != "U":
        return frame
    return frame.assign(target=names[data.target])
