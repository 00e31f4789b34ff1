"""What is answered over the wire against what scikit-learn answered in training."""

from __future__ import annotations

from typing import Any, Final

from platform_assets.packaging.onnx_export import model_inputs
from platform_assets.packaging.parity import Parity, compare
from platform_assets.resources.gateway import GatewayError, GatewayResource
from platform_assets.resources.records import EvaluationSet
from platform_assets.resources.triton import TritonResource
from serving_gateway.contract import Signature

_BATCH_ROWS: Final = 256


def predict_parity(
    evaluation: EvaluationSet, signature: Signature, gateway: GatewayResource, *, version: int
) -> tuple[Parity, list[Any]]:
    """Ask `POST /predict` for the whole evaluation set; return the comparison and the labels.

    Raises:
        GatewayError: a request was not answered, or by another version.
    """
    import numpy as np

    names = [feature.name for feature in signature.features]
    rows = evaluation.features[names].to_numpy().tolist()
    labels: list[Any] = []
    probabilities: list[list[float]] = []
    for start in range(0, len(rows), _BATCH_ROWS):
        answer = gateway.predict(rows[start : start + _BATCH_ROWS])
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
    )
    return parity, labels


def triton_parity(
    evaluation: EvaluationSet,
    signature: Signature,
    triton: TritonResource,
    *,
    model_name: str,
    version: int,
    batch_rows: int = _BATCH_ROWS,
) -> Parity:
    """Ask Triton itself, over the wire and by version, for the whole evaluation set.

    Raises:
        TritonError: Triton refused, or answered with another version.
    """
    import numpy as np

    inputs = model_inputs(signature, evaluation.features)
    outputs = [signature.label_output]
    if signature.probabilities_output is not None:
        outputs.append(signature.probabilities_output)
    answers = [
        triton.infer(
            model_name,
            version,
            {name: array[start : start + batch_rows] for name, array in inputs.items()},
            outputs,
        ).outputs
        for start in range(0, len(evaluation.labels), batch_rows)
    ]
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}
    return compare(
        joined[signature.label_output],
        joined.get(signature.probabilities_output or ""),
        evaluation.labels,
        evaluation.probabilities,
    )
