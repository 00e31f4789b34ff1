"""Data sets that installed packages bring; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.content import table_fingerprint
from platform_assets.features.sources.reader import (
    Progress,
    SourceTable,
    check_columns,
    ignored_columns,
)
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pandas as pd

_SKLEARN: Final = ("breast_cancer", "diabetes", "digits", "iris", "wine")


class DatasetReader:
    """`sklearn.<name>`, whose label is the column `target`, or `vega.<name>`."""

    def __init__(self, dataset: str, columns: Sequence[Column], *, key: str | None) -> None:
        self._dataset, self._columns, self._key = dataset, columns, key

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"the data set {self._dataset}"

    def fingerprint(self) -> str:
        """SHA-256 of the wanted columns of all rows."""
        return self.read(Progress()).fingerprint

    def read(self, progress: Progress) -> SourceTable:
        """Load the data set."""
        import pyarrow as pa

        from platform_assets.features.sources.builder import TableBuilder

        frame = _load(self._dataset)
        found = [str(name) for name in frame.columns]
        check_columns(self.name, found, self._columns)
        headers = list(dict.fromkeys(column.header for column in self._columns))
        wanted = frame[headers]
        try:
            batch = pa.RecordBatch.from_pandas(wanted, preserve_index=False)
        except pa.ArrowException as exc:
            raise SourceError(
                f"{self.name} has a column of several types: {exc}",
                "leave that column out of the model file, and run again",
            ) from exc
        builder = TableBuilder(self._columns, self._key, progress)
        builder.add_batch(self.name, headers, batch)
        table = builder.build(self.name, table_fingerprint)
        ignored = ignored_columns(found, self._columns)
        return replace(table, ignored=ignored)


def _load(dataset: str) -> pd.DataFrame:
    package, _, name = dataset.partition(".")
    if package == "sklearn" and name in _SKLEARN:
        from sklearn import datasets

        frame: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
        return frame
    shipped = _vega_names()
    if package == "vega" and name in shipped:
        return _load_vega(name)
    known = [f"sklearn.{one}" for one in _SKLEARN] + [f"vega.{one}" for one in shipped]
    raise SourceError(
        f"there is no data set {dataset}", f"use one of {', '.join(known)}, and run again"
    )


def _vega_names() -> list[str]:
    from vega_datasets import local_data

    return [name.replace("-", "_") for name in local_data.list_datasets()]


def _load_vega(name: str) -> pd.DataFrame:
    # `local_data` reads the files of the package and has no way to the network.
    from vega_datasets import local_data

    frame: pd.DataFrame = getattr(local_data, name)()
    return frame
