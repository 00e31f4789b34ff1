"""Columns that alone reveal the target: known only together with it, or derived from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.metrics import Answers, chosen_metric
from platform_assets.training.rows import Rows

if TYPE_CHECKING:
    import pandas as pd

_PERFECT: Final = {"balanced_accuracy": 0.99, "r2": 0.999}
"""By metric, the score from which a single column is too good to be true."""
_MOST_ROWS: Final = 5_000
_FEW_VALUES: Final = 0.1
"""Share of distinct values among the rows."""
_RESTLESS: Final = 0.2
"""Label changes between rows sorted by a column; for numbers, relative to those by chance."""


def find_leaks(rows: Rows, spec: ModelSpec, classes: tuple[Label, ...]) -> dict[str, str]:
    """Return the features that alone predict the target almost perfectly, with the reason.

    A tree learns each column on one half of the entities and is tested on the other.
    """
    sample = rows.spread(_MOST_ROWS)
    learn = _half(sample.groups)
    if learn.all() or not learn.any():
        return {}
    metric = chosen_metric(spec.evaluation)
    leaks = {}
    for name in sample.features.columns:
        column = _as_numbers(sample.features[name])
        if not _may_tell(column, sample.labels, spec.task):
            continue
        score = metric.compute(_answers(column, sample.labels, learn, spec.task, classes))
        if score >= _PERFECT[metric.name]:
            leaks[str(name)] = (
                f"alone predicts {spec.target.name} ({metric.name} {score:.3f} on rows it has not "
                "seen), as what is known only afterwards does; read it if you know it beforehand"
            )
    return leaks


def _may_tell(column: NDArray[np.float64], labels: NDArray[Any], task: Task) -> bool:
    """Whether trying a tree is worthwhile: few values, or labels that vary little along it."""
    if len(np.unique(column)) <= _FEW_VALUES * len(column):
        return True
    along = labels[np.argsort(column, kind="stable")]
    if task is Task.REGRESSION:
        return bool(np.square(np.diff(along)).mean() <= _RESTLESS * 2 * along.var())
    return bool((along[1:] != along[:-1]).mean() <= _RESTLESS)


def _half(groups: NDArray[Any]) -> NDArray[np.bool_]:
    import pandas as pd

    codes, distinct = pd.factorize(groups)
    chosen = np.random.default_rng(0).permutation(len(distinct)) < len(distinct) / 2
    return np.asarray(chosen[codes], dtype=np.bool_)


def _as_numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Encode texts as positions, and a missing number as one less than all others."""
    import pandas as pd

    if column.dtype == object:
        return pd.factorize(column, sort=True)[0].astype(np.float64)
    values = column.to_numpy(dtype=np.float64, copy=True)
    missing = np.isnan(values)
    values[missing] = values[~missing].min(initial=0.0) - 1
    return values


def _answers(
    column: NDArray[np.float64],
    labels: NDArray[Any],
    learn: NDArray[np.bool_],
    task: Task,
    classes: tuple[Label, ...],
) -> Answers:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    # As ranks: large values do not fit into the trees' single precision.
    ranks = np.unique(column, return_inverse=True)[1].reshape(-1, 1)
    kind = DecisionTreeRegressor if task is Task.REGRESSION else DecisionTreeClassifier
    tree = kind(random_state=0).fit(ranks[learn], labels[learn])
    return Answers(labels[~learn], tree.predict(ranks[~learn]), None, tuple(classes))
