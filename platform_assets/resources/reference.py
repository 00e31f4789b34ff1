"""A sample of a version's training rows, stored with its run as the drift reference."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

REFERENCE_ARTIFACT: Final = "drift/reference.parquet"
"""Artifact path of a run's sample."""
_UNIT_COLUMN: Final = "serving.unit"
_MOST_ROWS: Final = 20_000
_MOST_CELLS: Final = 4_000_000


@dataclass(frozen=True)
class TrainingSample:
    """Rows that a version was trained on.

    `features`: in tensor form, shape (rows, features). `units`: shape (rows,), rows of one entity
    share a number; the entity itself is not stored.
    """

    features: pd.DataFrame
    units: NDArray[np.int64]


def write_reference(features: pd.DataFrame, groups: NDArray[Any]) -> bytes:
    """Return evenly spaced training rows as Parquet bytes.

    `features` are in tensor form, shape (rows, features); `groups` their entities, shape (rows,).
    """
    import pandas as pd

    most = min(_MOST_ROWS, _MOST_CELLS // max(1, features.shape[1]))
    chosen = np.unique(np.linspace(0, len(features) - 1, most).astype(np.int64))
    units = pd.factorize(groups[chosen])[0].astype(np.int64)
    return features.iloc[chosen].assign(**{_UNIT_COLUMN: units}).to_parquet(index=False)


def read_reference(data: bytes) -> TrainingSample:
    """Read the output of `write_reference`; ValueError or KeyError for anything else."""
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(data))
    return TrainingSample(
        frame.drop(columns=_UNIT_COLUMN), frame[_UNIT_COLUMN].to_numpy(dtype=np.int64)
    )
