"""The rows to learn from and to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from platform_assets.model_spec import ModelSpec


class TrainingError(Exception):
    """No model can be chosen from these rows or candidates; the message says why."""


class EstimatorError(TrainingError):
    """An estimator failed on some rows; others may not."""


@dataclass(frozen=True)
class Rows:
    """Training or evaluation rows, all of the same length.

    `features`: columns in signature order, in tensor form (`training.frame`). `labels`: texts
    (object), int64 (booleans as 0 and 1), or float64 for a regression. `groups`: the entity of
    each row, int64 or text. `times`: datetime64[ns] in UTC, or None where unknown. `weights`: how
    much each row counts in a fit, from the column of the model file, float64.
    """

    features: pd.DataFrame
    labels: NDArray[Any]
    groups: NDArray[Any]
    times: NDArray[np.datetime64] | None = None
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[Any]) -> Rows:
        """Return the rows at these positions, or where a mask is true."""
        positions = chosen.nonzero()[0] if chosen.dtype == bool else chosen
        return Rows(
            self.features.iloc[positions],
            self.labels[positions],
            self.groups[positions],
            None if self.times is None else self.times[positions],
            None if self.weights is None else self.weights[positions],
        )

    def spread(self, most: int) -> Rows:
        """Return at most `most` of the rows, evenly spaced."""
        import numpy as np

        places = np.linspace(0, len(self) - 1, min(len(self), most))
        return self.take(places.astype(np.int64))


def row_columns(spec: ModelSpec) -> list[str]:
    """Return the columns that identify a row without a key, in this order."""
    return [*spec.feature_names, spec.target.name]


def unseen_texts(training: Rows, evaluation: Rows) -> dict[str, float]:
    """Return the share of evaluation rows with a text unseen in training, by feature.

    Features without such rows are left out.
    """
    texts = evaluation.features.select_dtypes("object")
    shares = {
        str(name): float((~column.isin(training.features[name].unique())).mean())
        for name, column in texts.items()
    }
    return {name: share for name, share in shares.items() if share > 0}
