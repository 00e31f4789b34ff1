"""Before hours of training: can every candidate be fitted, and does its graph agree with it?"""

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
from platform_assets.training.calibration import unwrap_calibration
from platform_assets.training.candidates import Candidate, CandidateError, build
from platform_assets.training.metrics import Answers
from platform_assets.training.rows import EstimatorError, Rows
from platform_assets.training.selection import answers_of, fit_pipeline

_PER_CLASS: Final = 20
_REGRESSION_ROWS: Final = 100
_PIPELINE_FACTOR: Final = 10
"""Multiple of the sample for a user's own steps, to see the effect of rounding."""
_FEW_OF: Final = {"n_estimators": 2, "max_iter": 2, "min_child_samples": 5}
"""Trees that suffice to see whether an ensemble converts, and rows on which they split."""


def probe(
    candidates: Sequence[Candidate],
    rows: Rows,
    spec: ModelSpec,
    classes: tuple[Label, ...],
    say: Log,
) -> None:
    """Fit and export every candidate on a few rows, and compare the graph's answers.

    Raises:
        CandidateError: a candidate cannot be built, has a parameter value that its estimator
            rejects, cannot be converted to ONNX, or answers differently there. One that merely
            fails to learn from so few rows is left to the real training, and `say` gets a line.
    """
    few, more = (_sample(rows, spec.task, times) for times in (1, _PIPELINE_FACTOR))
    for candidate in candidates:
        sample = few if candidate.spec.pipeline is None else more
        pipeline = build(candidate, spec)
        _shrink(pipeline.steps[-1][1])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if candidate.spec.pipeline is not None:
                    # Also for one that fails to learn from so few rows.
                    require_converters(unwrap_calibration(pipeline.named_steps[CUSTOM_STEP]))
                fitted = _fit(pipeline, sample, candidate, spec, say)
                if fitted is None:
                    continue
                graph = export(fitted, spec.signature(classes), spec.model_name)
                _require_parity(
                    graph, answers_of(fitted, sample, spec, classes), sample, spec, candidate
                )
        except ExportError as exc:
            what = f"{candidate.name} cannot become an ONNX model"
            raise CandidateError(f"{candidate.where}: {what}: {exc}") from exc
        except EstimatorError as exc:
            raise CandidateError(f"{candidate.where}: {exc}") from exc


def _sample(rows: Rows, task: Task, times: int) -> Rows:
    if task is Task.REGRESSION:
        return rows.spread(times * _REGRESSION_ROWS)
    kinds, kind = np.unique(rows.labels, return_inverse=True)
    chosen = [np.flatnonzero(kind == number)[: times * _PER_CLASS] for number in range(len(kinds))]
    return rows.take(np.sort(np.concatenate(chosen)))


def _shrink(model: Any) -> None:
    """Reduce ensembles, also inside a pipeline or a wrapper, to few trees on few rows."""
    known = model.get_params(deep=True)
    for path, value in known.items():
        above, _, name = path.rpartition("__")
        owner = known.get(above, model)
        few = _FEW_OF.get(name)
        if name == "max_iter" and not type(owner).__name__.startswith("HistGradientBoosting"):
            few = None
        # The estimator itself rejects a value that is not a number.
        if few is not None and type(value) is int and value > few:
            model.set_params(**{path: few})


def _fit(
    pipeline: Any, sample: Rows, candidate: Candidate, spec: ModelSpec, say: Log
) -> Any | None:
    from sklearn.utils._param_validation import InvalidParameterError

    try:
        return fit_pipeline(pipeline, sample, spec)
    except (InvalidParameterError, TypeError) as exc:
        raise CandidateError(f"{candidate.where}: {candidate.name}: {exc}") from exc
    # Estimators, including the user's, fail on few rows in various ways.
    except Exception as exc:
        say(
            f"{candidate.name} could not be tried on {len(sample)} rows ({exc}); the training will "
            "show whether it works"
        )
        return None


def _require_parity(
    graph: bytes, expected: Answers, sample: Rows, spec: ModelSpec, candidate: Candidate
) -> None:
    """Refuse a candidate whose graph answers the sample differently."""
    signature = spec.signature(expected.classes)
    try:
        outputs = run_graph(graph, model_inputs(signature, sample.features))
    # ONNX Runtime's exceptions have no common base class of their own.
    except Exception as exc:
        raise CandidateError(
            f"{candidate.where}: ONNX Runtime cannot run {candidate.name}: {exc}"
        ) from exc
    parity = compare(
        *answers_in(outputs, signature),
        expected.labels,
        expected.probabilities,
        spec.gates.parity_tolerance,
    )
    if not parity.holds:
        raise CandidateError(
            f"{candidate.where}: {candidate.name} answers {len(parity.differing_rows)} of "
            f"{parity.rows} rows differently as an ONNX model: "
            f"{parity.label_mismatches} with another answer, "
            f"probabilities by up to {parity.largest_probability_difference:.2g}; "
            f"{_advice(candidate)}"
        )


def _advice(candidate: Candidate) -> str:
    if candidate.spec.pipeline is None:
        return "choose an estimator that skl2onnx converts exactly"
    return (
        "choose steps that skl2onnx converts exactly; boosted trees over 64-bit numbers do with "
        "FunctionTransformer(numpy.asarray, kw_args={'dtype': 'float32'}) before them"
    )
