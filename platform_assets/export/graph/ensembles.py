"""What scikit-learn's tree ensembles are made of, and how they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from platform_assets.export.graph.answers import Scores, first_best, from_raw
from platform_assets.export.graph.builder import Graph, Value
from platform_assets.export.graph.trees import (
    Grid,
    Tree,
    from_histogram,
    from_sklearn,
    grid_of,
    largest_leaf,
    tree_sums,
    trees_per_sum,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def is_averaging(estimator: Any) -> bool:
    """Whether this is a tree or a forest: the answer is the mean over its trees."""
    from sklearn.ensemble import (
        ExtraTreesClassifier,
        ExtraTreesRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    return isinstance(
        estimator,
        (
            DecisionTreeClassifier,
            DecisionTreeRegressor,
            RandomForestClassifier,
            RandomForestRegressor,
            ExtraTreesClassifier,
            ExtraTreesRegressor,
        ),
    )


def is_boosting(estimator: Any) -> bool:
    """Whether this is gradient boosting: the answer is a sum over its trees."""
    return is_histogram(estimator) or _is_plain_boosting(estimator)


def is_histogram(estimator: Any) -> bool:
    """Whether this is histogram-based gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return isinstance(estimator, (HistGradientBoostingClassifier, HistGradientBoostingRegressor))


def _is_plain_boosting(estimator: Any) -> bool:
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    # Another first guess than a constant is an estimator of its own: not for our nodes.
    return isinstance(estimator, (GradientBoostingClassifier, GradientBoostingRegressor)) and (
        estimator.init in (None, "zero")
    )


def averaging_scores(graph: Graph, estimator: Any, matrix: Value) -> Scores:
    """Add the nodes of a fitted tree or forest."""
    import numpy as np

    trees = averaging_trees(estimator)
    classifier = hasattr(estimator, "classes_")
    sums = tree_sums(graph, matrix, trees, len(trees[0].targets))
    mean = sums
    if len(trees) > 1:
        mean = graph.add("Div", sums, graph.constant(np.array([float(len(trees))])))
    if not classifier:
        return Scores(number=mean)
    return Scores(winner=first_best(graph, sums), probabilities=mean)


def averaging_trees(estimator: Any) -> list[Tree]:
    """Return the trees of a fitted tree or forest."""
    trees = []
    for member in getattr(estimator, "estimators_", [estimator]):
        values = member.tree_.value[:, 0, :]
        trees.append(from_sklearn(member.tree_, values, tuple(range(values.shape[1]))))
    return trees


def boosting_scores(graph: Graph, estimator: Any, matrix: Value) -> Scores:
    """Add the nodes of fitted gradient boosting, of either kind."""
    trees, start = boosting_trees(estimator), starting_point(estimator)
    raw = graph.add("Add", tree_sums(graph, matrix, trees, len(start)), graph.constant(start))
    if not hasattr(estimator, "classes_"):
        if is_histogram(estimator) and estimator.loss in {"gamma", "poisson"}:
            raw = graph.add("Exp", raw)
        return Scores(number=raw)
    return from_raw(
        graph,
        raw,
        len(start),
        classifier=True,
        slope=2.0 if estimator.loss == "exponential" else 1.0,
        tie_is_positive=not is_histogram(estimator),
    )


def boosting_trees(estimator: Any) -> list[Tree]:
    """Return the trees of fitted gradient boosting, each with what it adds to its score."""
    if is_histogram(estimator):
        return [
            from_histogram(predictor.nodes, target)
            for stage in estimator._predictors
            for target, predictor in enumerate(stage)
        ]
    return [
        from_sklearn(member.tree_, estimator.learning_rate * member.tree_.value[:, :, 0], (target,))
        for stage in estimator.estimators_
        for target, member in enumerate(stage)
    ]


def starting_point(estimator: Any) -> NDArray[np.float64]:
    """Return the raw scores before the first tree, shape (scores,)."""
    import numpy as np

    if is_histogram(estimator):
        return np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(-1)
    if isinstance(estimator.init_, str):
        return np.zeros(estimator.estimators_.shape[1])
    row = np.zeros((1, estimator.n_features_in_), dtype=np.float32)
    return np.asarray(estimator._raw_predict_init(row), dtype=np.float64).reshape(-1)


def settle(estimator: Any) -> None:
    """Round the leaves of a fitted classifier to a grid on which their sums are exact.

    Where votes cancel, the last bit of a sum decides, and with it the order of the trees. On
    the grid there is no such bit: what scikit-learn answers from now on is what every runtime
    answers. Leaves change by less than one part in ten million. Boosting gets its learning
    rate and first guess folded into the leaves, as products with them would leave the grid.
    Other estimators stay as they are.
    """
    if not hasattr(estimator, "classes_"):
        return
    if is_averaging(estimator):
        trees = averaging_trees(estimator)
        grid = _grid(trees)
        for member in getattr(estimator, "estimators_", [estimator]):
            member.tree_.value[:] = _snapped(member.tree_.value, grid)
    elif is_histogram(estimator):
        _settle_histogram(estimator)
    elif _is_plain_boosting(estimator):
        _settle_boosting(estimator)


def _settle_histogram(estimator: Any) -> None:
    trees = boosting_trees(estimator)
    grid = _grid(trees)
    for stage in estimator._predictors:
        for predictor in stage:
            predictor.nodes["value"] = _snapped(predictor.nodes["value"], grid)
    estimator._baseline_prediction = _snapped(estimator._baseline_prediction, grid)


def _settle_boosting(estimator: Any) -> None:
    start = starting_point(estimator)
    rate = estimator.learning_rate
    for number, stage in enumerate(estimator.estimators_):
        for target, member in enumerate(stage):
            member.tree_.value[:] *= rate
            if number == 0:
                member.tree_.value[:] += start[target]
    estimator.learning_rate, estimator.init_ = 1.0, "zero"
    grid = _grid(boosting_trees(estimator))
    for member in estimator.estimators_.ravel():
        member.tree_.value[:] = _snapped(member.tree_.value, grid)


def _grid(trees: Sequence[Tree]) -> Grid:
    return grid_of(max(map(largest_leaf, trees)), trees_per_sum(trees))


def _snapped(values: Any, grid: Grid) -> Any:
    import numpy as np

    return np.rint(np.asarray(values) / grid.step) * grid.step
