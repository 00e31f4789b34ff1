"""Run a graph with ONNX Runtime in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving_gateway.contract import DType, Signature

if TYPE_CHECKING:
    import pandas as pd

_ROWS_AT_ONCE: Final = 10_000
"""The runtime's memory between nodes grows with the rows, and is never released."""

ModelAnswers = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]
"""Labels or predictions, shape (rows,), and probabilities, shape (rows, classes), if any."""


def answers_in(outputs: Mapping[str, np.ndarray[Any, Any]], signature: Signature) -> ModelAnswers:
    """Extract a model's answers from its outputs by name."""
    labels = outputs[signature.label_output].reshape(-1)
    return labels, outputs.get(signature.probabilities_output or "")


def output_names(signature: Signature) -> list[str]:
    """Return the outputs with a version's answers: labels, and probabilities if it has any."""
    names = (signature.label_output, signature.probabilities_output)
    return [name for name in names if name is not None]


def model_inputs(signature: Signature, features: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
    """Turn rows in tensor form, with at least the signature's columns, into graph inputs.

    Returns:
        {input name: [n, width] array} for a packed input, else one [n, 1] array per feature.
    """
    dtypes: dict[DType, Any] = {
        DType.FP32: np.float32,
        DType.FP64: np.float64,
        DType.INT64: np.int64,
        DType.BOOL: np.bool_,
        DType.BYTES: np.object_,
    }
    names = [feature.name for feature in signature.features]
    if signature.packed_input is not None:
        dtype = dtypes[signature.features[0].tensor_dtype]
        return {signature.packed_input: features[names].to_numpy(dtype=dtype)}
    return {
        feature.name: features[[feature.name]].to_numpy(dtype=dtypes[feature.tensor_dtype])
        for feature in signature.features
    }


BLANK_ROW: Final = (
    "a row of zeros, False and empty texts, which gateways send as a trial before they route to a "
    "version"
)
"""Display name of `blank_row`."""


def blank_row(signature: Signature) -> pd.DataFrame:
    """Return the row of a gateway's trial inference, in tensor form."""
    import pandas as pd

    blank: dict[DType, Any] = {DType.BYTES: "", DType.BOOL: False}
    return pd.DataFrame(
        {feature.name: [blank.get(feature.tensor_dtype, 0)] for feature in signature.features}
    )


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, which by default reports models to its vendor.

    It reads the environment once, at import. A variable set by the user wins.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def run_graph(
    onnx_bytes: bytes, inputs: dict[str, np.ndarray[Any, Any]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Run a graph with ONNX Runtime on the CPU, in batches; return its outputs by name."""
    session = import_onnxruntime().InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = max(map(len, inputs.values()))
    parts = [
        session.run(
            names, {key: array[start : start + _ROWS_AT_ONCE] for key, array in inputs.items()}
        )
        for start in range(0, max(rows, 1), _ROWS_AT_ONCE)
    ]
    return {name: np.concatenate(values) for name, *values in zip(names, *parts, strict=True)}
