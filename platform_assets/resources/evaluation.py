"""Write and read the held-out rows of a run as Parquet."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from platform_assets.resources.records import EvaluationSet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

EVALUATION_ARTIFACT: Final = "evaluation/evaluation.parquet"
"""Where a run keeps its evaluation set."""
_OWN: Final = "serving."
TRUE_COLUMN: Final = f"{_OWN}label_true"
LABEL_COLUMN: Final = f"{_OWN}label"
GROUP_COLUMN: Final = f"{_OWN}group"
TIME_COLUMN: Final = f"{_OWN}time"
PROBABILITY_PREFIX: Final = f"{_OWN}probability_"


def write_evaluation(
    features: pd.DataFrame,
    label_true: NDArray[Any],
    labels: NDArray[Any],
    probabilities: NDArray[np.float64] | None,
    groups: NDArray[Any] | None = None,
    times: NDArray[np.datetime64] | None = None,
) -> bytes:
    """Return the evaluation set as Parquet bytes; arguments are those of `EvaluationSet`.

    Without `groups` each row is an entity of its own.

    Raises:
        ValueError: a feature has the name of a column that the file needs for itself.
    """
    import numpy as np

    reserved = [name for name in features.columns if name.startswith(_OWN)]
    if reserved:
        raise ValueError(f"feature names {reserved} are reserved: rename the features")
    frame = features.reset_index(drop=True)
    own: dict[str, Any] = {
        TRUE_COLUMN: label_true,
        LABEL_COLUMN: labels,
        GROUP_COLUMN: np.arange(len(frame)) if groups is None else groups,
    }
    if times is not None:
        own[TIME_COLUMN] = times
    if probabilities is not None:
        for index in range(probabilities.shape[1]):
            own[f"{PROBABILITY_PREFIX}{index}"] = probabilities[:, index]
    return frame.assign(**own).to_parquet(index=False)


def read_evaluation(data: bytes) -> EvaluationSet:
    """Read what `write_evaluation` wrote; Parquet only, nothing is unpickled."""
    import numpy as np
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(data))
    columns = [name for name in frame.columns if name.startswith(PROBABILITY_PREFIX)]
    columns.sort(key=lambda name: int(name.removeprefix(PROBABILITY_PREFIX)))
    return EvaluationSet(
        features=frame[[name for name in frame.columns if not name.startswith(_OWN)]],
        label_true=frame[TRUE_COLUMN].to_numpy(),
        labels=frame[LABEL_COLUMN].to_numpy(),
        probabilities=frame[columns].to_numpy(dtype=np.float64) if columns else None,
        groups=frame[GROUP_COLUMN].to_numpy(),
        times=frame[TIME_COLUMN].to_numpy("datetime64[ns]") if TIME_COLUMN in frame else None,
    )
