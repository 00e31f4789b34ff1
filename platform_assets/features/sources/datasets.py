"""Data sets that installed packages bring; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.content import table_fingerprint
from platform_assets.features.sources.reader import (
    Progress,
    Raw,
    check_columns,
    conform_batch,
    ignored_columns,
)
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pandas as pd

_SKLEARN: Final = ("breast_cancer", "diabetes", "digits", "iris", "wine")


class DatasetReader:
    """`sklearn.<name>`, whose label is the column `target`, or `vega.<name>`."""

    def __init__(self, dataset: str, columns: Sequence[Column]) -> None:
        self._dataset, self._columns = dataset, columns

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"the data set {self._dataset}"

    @property
    def kinds(self) -> frozenset[str]:
        """Dagster's words for it."""
        return frozenset({"python"})

    def fingerprint(self) -> str:
        """SHA-256 of the wanted columns of all rows."""
        return self.read(Progress()).fingerprint

    def read(self, progress: Progress) -> Raw:
        """Load the data set."""
        import pyarrow as pa

        frame = _load(self._dataset)
        found = [str(name) for name in frame.columns]
        check_columns(self.name, found, self._columns)
        wanted = frame[[column.name for column in self._columns]]
        try:
            batch = pa.RecordBatch.from_pandas(wanted, preserve_index=False)
        except pa.ArrowException as exc:
            raise SourceError(
                f"{self.name} has a column of several types: {exc}",
                "leave that column out of the model file, and run again",
            ) from exc
        batch = conform_batch(self.name, batch, self._columns, 0)
        table = pa.Table.from_batches([batch])
        progress.at(f"reading {self._dataset}", table.num_rows)
        return Raw(
            self.name,
            table,
            ((self.name, table.num_rows),),
            ignored_columns(found, self._columns),
            table_fingerprint(table),
        )


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
