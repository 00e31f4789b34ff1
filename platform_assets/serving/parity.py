"""What is answered over the wire against what scikit-learn answered in training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from platform_assets.packaging.onnx_export import model_inputs
from platform_assets.packaging.parity import Parity, compare
from platform_assets.resources.gateway import GatewayError, GatewayResource
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.triton import TritonResource
from serving_gateway.contract import DType, Feature, Signature

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_BATCH_ROWS: Final = 256

Answers = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any] | None"]
"""Labels or predictions, shape (rows,), and probabilities, shape (rows, classes), if any."""


def predict_parity(
    evaluation: EvaluationSet,
    signature: Signature,
    gateway: GatewayResource,
    *,
    model_name: str,
    version: int,
    tolerance: float,
) -> tuple[Parity, list[Any]]:
    """Ask the gateway for the whole evaluation set; return the comparison and the labels.

    Raises:
        GatewayError: a request was not answered, or by another version.
    """
    import numpy as np

    rows = json_rows(signature, evaluation.features)
    labels: list[Any] = []
    probabilities: list[list[float]] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        answer = gateway.predict(model_name, rows[start : start + _BATCH_ROWS])
        if answer["version"] != version:
            raise GatewayError(
                f"POST /predict was answered by version {answer['version']}, not {version}"
            )
        labels += answer["predictions"]
        probabilities += answer.get("probabilities") or []
    parity = compare(
        np.asarray(labels, dtype=evaluation.labels.dtype),
        np.asarray(probabilities) if evaluation.probabilities is not None else None,
        evaluation.labels,
        evaluation.probabilities,
        tolerance,
    )
    return parity, labels


def json_rows(signature: Signature, features: pd.DataFrame) -> list[list[Any]]:
    """Rows as a client writes them: in signature order, None for what is missing.

    Args:
        signature: says order and types.
        features: rows in tensor form.
    """
    columns = [_json_column(feature, features[feature.name]) for feature in signature.features]
    return [list(row) for row in zip(*columns, strict=True)]


def _json_column(feature: Feature, column: pd.Series[Any]) -> Iterator[Any]:
    word = {DType.INT64: int, DType.BOOL: bool, DType.BYTES: str}.get(feature.dtype, float)
    for value in column.tolist():
        missing = feature.nullable and (value == "" or value != value)  # noqa: PLR0124 # NaN
        yield None if missing else word(value)


def ask_triton(
    features: pd.DataFrame,
    signature: Signature,
    triton: TritonResource,
    *,
    model_name: str,
    version: int,
    batch_rows: int = _BATCH_ROWS,
) -> Answers:
    """Ask Triton itself, over the wire and by version, about rows in tensor form.

    Raises:
        TritonError: Triton refused, or answered with another version.
    """
    import numpy as np

    inputs = model_inputs(signature, features)
    outputs = [signature.label_output]
    if signature.probabilities_output is not None:
        outputs.append(signature.probabilities_output)
    batch = min(batch_rows, signature.max_batch_rows)
    answers = [
        triton.infer(
            model_name,
            version,
            {name: array[start : start + batch] for name, array in inputs.items()},
            outputs,
        ).outputs
        for start in range(0, len(features), batch)
    ]
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}
    return (
        joined[signature.label_output].reshape(-1),
        joined.get(signature.probabilities_output or ""),
    )


def triton_parity(
    evaluation: EvaluationSet,
    signature: Signature,
    triton: TritonResource,
    *,
    model_name: str,
    version: int,
    tolerance: float,
    batch_rows: int = _BATCH_ROWS,
) -> Parity:
    """Compare what Triton answers for the whole evaluation set with what was trained.

    Raises:
        TritonError: Triton refused, or answered with another version.
    """
    labels, probabilities = ask_triton(
        evaluation.features,
        signature,
        triton,
        model_name=model_name,
        version=version,
        batch_rows=batch_rows,
    )
    return compare(labels, probabilities, evaluation.labels, evaluation.probabilities, tolerance)
