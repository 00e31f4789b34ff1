"""Trees, forests and boosted trees as ONNX nodes whose sums are exact.

A runtime adds up the leaves of an ensemble in single precision and in an order of its own, so
its answers would differ from scikit-learn's in the seventh digit: enough to break a tie between
two classes the other way, and more than enough where large leaves cancel. Here every leaf
becomes a few numbers (`PARTS`) that are each so short that single precision adds up all trees
without rounding, in any order; put together in double precision they are the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from platform_assets.export.graph.builder import ML, ExportError, Graph, Value
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARTS: Final = 3
_MANTISSA: Final = 24
"""Bits of a whole number that single precision holds."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: where `values[left of feature <= threshold]` ends is the answer.

    `left` and `right` are the children, negative for a leaf; `values`, shape (nodes, sums), is
    what a leaf adds to each of the sums in `targets`.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    values: NDArray[np.float64]
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """How leaves are cut: `exponent` of the largest one, `bits` per part."""

    exponent: int
    bits: int

    @property
    def step(self) -> float:
        """Leaves that are multiples of this are exact in two parts."""
        return math.ldexp(1.0, self.exponent - 2 * self.bits)


def grid_of(largest: float, trees: int) -> Grid:
    """Return the grid for this many trees per sum, whose leaves are at most `largest`.

    Raises:
        ExportError: so many trees that nothing is left of a leaf.
    """
    mantissa, exponent = math.frexp(largest)
    if mantissa == 0.5:
        exponent -= 1  # a power of two is its own bound
    bits = _MANTISSA - math.ceil(math.log2(max(1, trees)))
    if bits < 8:
        raise ExportError(f"{trees} trees in one ensemble are more than can be added exactly")
    return Grid(exponent, bits)


def from_sklearn(tree: Any, values: NDArray[np.float64], targets: tuple[int, ...]) -> Tree:
    """Return scikit-learn's `tree_` with these values per node."""
    import numpy as np

    return Tree(
        left=np.asarray(tree.children_left, dtype=np.int64),
        right=np.asarray(tree.children_right, dtype=np.int64),
        feature=np.asarray(tree.feature, dtype=np.int64),
        threshold=np.asarray(tree.threshold, dtype=np.float64),
        values=values,
        targets=targets,
    )


def from_histogram(nodes: Any, target: int) -> Tree:
    """Return a tree of histogram boosting out of its `nodes`.

    Raises:
        ExportError: a split on categories, which only its own encoder understands.
    """
    import numpy as np

    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"].astype(bool).any():
        raise ExportError("histogram boosting over categorical features cannot be exported")
    return Tree(
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        values=nodes["value"].astype(np.float64)[:, None],
        targets=(target,),
    )


def tree_sums(graph: Graph, matrix: Value, trees: Sequence[Tree], sums: int) -> str:
    """Add the nodes that add up what the trees answer for `matrix`.

    Returns:
        The sums, [rows, sums], in double precision.
    """
    import numpy as np

    grid = grid_of(max(largest_leaf(tree) for tree in trees), trees_per_sum(trees))
    parts = graph.add(
        "TreeEnsembleRegressor",
        graph.cast(matrix, DType.FP32).name,
        domain=ML,
        n_targets=sums * PARTS,
        aggregate_function="SUM",
        post_transform="NONE",
        **_attributes(trees, grid),
    )
    together = np.zeros((sums * PARTS, sums))
    for index in range(sums):
        together[index * PARTS : (index + 1) * PARTS, index] = math.ldexp(1.0, grid.exponent)
    exact = graph.cast(Value(parts, DType.FP32), DType.FP64)
    return graph.add("MatMul", exact.name, graph.constant(together))


def largest_leaf(tree: Tree) -> float:
    """Return the largest absolute value of a leaf."""
    import numpy as np

    return float(np.abs(tree.values[tree.left < 0]).max(initial=0.0))


def trees_per_sum(trees: Sequence[Tree]) -> int:
    """Return how many trees add to the sum that most of them add to."""
    counts: dict[int, int] = {}
    for tree in trees:
        for target in tree.targets:
            counts[target] = counts.get(target, 0) + 1
    return max(counts.values())


def _attributes(trees: Sequence[Tree], grid: Grid) -> dict[str, Any]:
    import numpy as np

    columns: dict[str, Any] = {}
    for number, tree in enumerate(trees):
        count, leaf = len(tree.left), tree.left < 0
        leaves = np.flatnonzero(leaf)
        described = {
            "nodes_treeids": np.full(count, number),
            "nodes_nodeids": np.arange(count),
            "nodes_featureids": np.where(leaf, 0, tree.feature),
            "nodes_values": np.where(leaf, 0.0, _rounded_down(tree.threshold)),
            "nodes_modes": np.where(leaf, b"LEAF", b"BRANCH_LEQ"),
            "nodes_truenodeids": np.where(leaf, 0, tree.left),
            "nodes_falsenodeids": np.where(leaf, 0, tree.right),
        }
        width = len(tree.targets) * PARTS
        cells = np.concatenate(
            [np.stack(list(_parts(tree.values[leaves, k], grid)), axis=1)
             for k in range(len(tree.targets))], axis=1,
        )  # fmt: skip
        described |= {
            "target_treeids": np.full(len(leaves) * width, number),
            "target_nodeids": np.repeat(leaves, width),
            "target_ids": np.tile(
                [target * PARTS + part for target in tree.targets for part in range(PARTS)],
                len(leaves),
            ),
            "target_weights": cells.ravel(),
        }
        for name, values in described.items():
            columns.setdefault(name, []).extend(values.tolist())
    return columns


def _rounded_down(thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest single-precision numbers that are not above the thresholds.

    A value in single precision is at most that exactly when it is at most the threshold.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        near = thresholds.astype(np.float32)
    lower = np.nextafter(near, np.float32(-np.inf))
    return np.where(near > thresholds, lower, near).astype(np.float64)


def _parts(values: NDArray[np.float64], grid: Grid) -> Iterator[NDArray[np.float64]]:
    import numpy as np

    rest = np.ldexp(values, -grid.exponent)
    for part in range(1, PARTS + 1):
        cut = np.ldexp(np.rint(np.ldexp(rest, part * grid.bits)), -part * grid.bits)
        rest = rest - cut
        yield cut
