"""Our converter for trees and forests, which send a missing value where scikit-learn does."""

from __future__ import annotations

from typing import Any


def tree_classes() -> tuple[type, ...]:
    """Return the estimators that `convert_trees` converts."""
    from sklearn import ensemble, tree

    return (
        *(tree.DecisionTreeClassifier, tree.DecisionTreeRegressor),
        *(tree.ExtraTreeClassifier, tree.ExtraTreeRegressor),
        *(ensemble.RandomForestClassifier, ensemble.RandomForestRegressor),
        *(ensemble.ExtraTreesClassifier, ensemble.ExtraTreesRegressor),
    )


def convert_trees(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a tree or forest: skl2onnx's, with the way of missing values.

    skl2onnx sends them all to the right. A tree sends them where it learned to, or where most rows
    went if it saw none.
    """
    from skl2onnx.common._registration import get_converter

    model, before = operator.raw_operator, len(container.nodes)
    get_converter(operator.type)(scope, operator, container)
    trees = [member.tree_ for member in getattr(model, "estimators_", [model])]
    for node in container.nodes[before:]:
        if not node.op_type.startswith("TreeEnsemble"):
            continue
        values = {attribute.name: attribute for attribute in node.attribute}
        places = zip(values["nodes_treeids"].ints, values["nodes_nodeids"].ints, strict=True)
        lefts = [int(trees[tree].missing_go_to_left[place]) for tree, place in places]
        values["nodes_missing_value_tracks_true"].ints[:] = lefts
