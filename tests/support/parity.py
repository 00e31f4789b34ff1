"""A fitted pipeline against its exported graph, on rows in tensor form."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from platform_assets.export.conversion import export
from platform_assets.export.parity import Parity, compare
from platform_assets.export.runtime import model_inputs, run_graph
from platform_assets.model_spec import ModelSpec
from platform_assets.training.candidates import build, expand
from platform_assets.training.rows import Rows
from platform_assets.training.selection import answers_of, fit

TOLERANCE: Final = 1e-5
"""A tenth of what the gates allow by default."""


def fitted_candidate(spec: ModelSpec, rows: Rows) -> Any:
    """The only candidate of a model, fitted."""
    (candidate,) = expand(spec)
    return fit(build(candidate, spec), rows, spec)[0]


def graph_parity(
    estimator: Any,
    spec: ModelSpec,
    frame: pd.DataFrame,
    tolerance: float = TOLERANCE,
    threshold: float | None = None,
) -> tuple[Parity, dict[str, Any]]:
    """How far the graph's answers for all rows are from scikit-learn's, and the answers."""
    signature = spec.signature(spec.target.classes)
    outputs = run_graph(export(estimator, signature, "mixed"), model_inputs(signature, frame))
    asked = Rows(frame, np.zeros(len(frame)), np.arange(len(frame)))
    expected = answers_of(estimator, asked, spec, spec.target.classes)
    parity = compare(
        outputs[signature.label_output],
        outputs.get("probabilities"),
        expected.labels,
        expected.probabilities,
        tolerance,
        threshold,
    )
    return parity, outputs
