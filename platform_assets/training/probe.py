"""Before hours of training: can every candidate be fitted, and does its graph answer alike?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from platform_assets.export.conversion import export
from platform_assets.export.custom_step import CUSTOM_STEP
from platform_assets.export.inspection import ExportError
from platform_assets.export.parity import compare
from platform_assets.export.runtime import answers_in, model_inputs, run_graph
from platform_assets.export.step_names import require_converters
from platform_assets.features.sources.reader import Log
from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.training.calibration import estimator_in
from platform_assets.training.candidates import Candidate, CandidateError, build
from platform_assets.training.metrics import Answers
from platform_assets.training.rows import EstimatorError, Rows
from platform_assets.training.selection import answers_of, fit_pipeline

_PER_CLASS: Final = 20
_OF_A_REGRESSION: Final = 100
_MORE_OF_A_PIPELINE: Final = 10
"""Times as many rows for steps that the platform does not choose, to see what rounding does."""
_FEW_OF: Final = {"n_estimators": 2, "max_iter": 2, "min_child_samples": 5}
"""Trees that are enough to see whether an ensemble converts, and rows on which they split."""


def probe(
    candidates: Sequence[Candidate],
    rows: Rows,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    say: Log,
) -> None:
    """Fit and export every candidate on a few rows, and let the graph answer them.

    Raises:
        CandidateError: a candidate cannot be built, has a parameter with a value that its
            estimator does not take, cannot be converted to ONNX, or answers otherwise there.
            One that merely fails to learn from so few rows is left to the real training, and
            `say` gets a line.
    """
    few, more = (_sample(rows, spec.task, times) for times in (1, _MORE_OF_A_PIPELINE))
    for one in candidates:
        sample = few if one.spec.pipeline is None else more
        pipeline = build(one, spec)
        _shrink(pipeline.steps[-1][1])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if one.spec.pipeline is not None:
                    # Also of one that fails to learn from so few rows.
                    require_converters(estimator_in(pipeline.named_steps[CUSTOM_STEP]))
                fitted = _fitted(pipeline, sample, one, spec, say)
                if fitted is None:
                    continue
                graph = export(fitted, spec.signature(classes), spec.model_name)
                _require_parity(graph, answers_of(fitted, sample, spec, classes), sample, spec, one)
        except ExportError as exc:
            what = f"{one.name} cannot become an ONNX model"
            raise CandidateError(f"{one.where}: {what}: {exc}") from exc
        except EstimatorError as exc:
            raise CandidateError(f"{one.where}: {exc}") from exc


def _sample(rows: Rows, task: Task, times: int) -> Rows:
    if task is Task.REGRESSION:
        return rows.spread(times * _OF_A_REGRESSION)
    kinds, kind = np.unique(rows.labels, return_inverse=True)
    chosen = [np.flatnonzero(kind == one)[: times * _PER_CLASS] for one in range(len(kinds))]
    return rows.take(np.sort(np.concatenate(chosen)))


def _shrink(model: Any) -> None:
    """Let ensembles, also those inside a pipeline or a wrapper, have few trees of few rows."""
    known = model.get_params(deep=True)
    for path, value in known.items():
        above, _, name = path.rpartition("__")
        owner = known.get(above, model)
        few = _FEW_OF.get(name)
        if name == "max_iter" and not type(owner).__name__.startswith("HistGradientBoosting"):
            few = None
        # The estimator itself refuses a value that is not a number.
        if few is not None and type(value) is int and value > few:
            model.set_params(**{path: few})


def _fitted(pipeline: Any, sample: Rows, one: Candidate, spec: ModelSpec, say: Log) -> Any | None:
    from sklearn.utils._param_validation import InvalidParameterError

    try:
        return fit_pipeline(pipeline, sample, spec)
    except (InvalidParameterError, TypeError) as exc:
        raise CandidateError(f"{one.where}: {one.name}: {exc}") from exc
    # Estimators, the user's own among them, fail on few rows in ways of their own.
    except Exception as exc:
        say(
            f"{one.name} could not be tried on {len(sample)} rows ({exc}); the training will show "
            "whether it works"
        )
        return None


def _require_parity(
    graph: bytes, expected: Answers, sample: Rows, spec: ModelSpec, one: Candidate
) -> None:
    """Refuse a candidate whose graph answers the sample otherwise than it does."""
    signature = spec.signature(expected.classes)
    try:
        outputs = run_graph(graph, model_inputs(signature, sample.features))
    # ONNX Runtime's exceptions have no common root of their own.
    except Exception as exc:
        raise CandidateError(f"{one.where}: ONNX Runtime cannot run {one.name}: {exc}") from exc
    parity = compare(
        *answers_in(outputs, signature),
        expected.labels,
        expected.probabilities,
        spec.gates.parity_tolerance,
    )
    if not parity.holds:
        raise CandidateError(
            f"{one.where}: {one.name} answers {len(parity.differing_rows)} of {parity.rows} rows "
            f"differently as an ONNX model: {parity.label_mismatches} with another answer, "
            f"probabilities by up to {parity.largest_probability_difference:.2g}; {_advice(one)}"
        )


def _advice(one: Candidate) -> str:
    if one.spec.pipeline is None:
        return "choose an estimator that skl2onnx converts exactly"
    return (
        "choose steps that skl2onnx converts exactly; boosted trees over 64-bit numbers do with "
        "FunctionTransformer(numpy.asarray, kw_args={'dtype': 'float32'}) before them"
    )
