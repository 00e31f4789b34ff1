"""A version's answers over the wire, for comparison with scikit-learn's from training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from platform_assets.export.runtime import ModelAnswers, answers_in, model_inputs, output_names
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayClientError, GatewayRefused, GatewayResource
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.records import EvaluationSet, RegisteredVersion
from platform_assets.resources.triton import TritonEndpoint, TritonError, TritonResource
from platform_assets.serving.records import ServingState
from serving_gateway.contract import DType, Feature, PredictResponse, Signature

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS: Final = 256

Row = TypeVar("Row")


def ask_gateway(
    registered: RegisteredVersion, evaluation: EvaluationSet, gateway: GatewayResource
) -> ModelAnswers:
    """Send the rows to any replica as a client would; labels have the dtype of the true ones.

    Raises:
        GatewayClientError: a request was not answered, or by another version.
    """
    rows = json_rows(registered.signature, evaluation.features)
    labels, probabilities = ask_gateway_rows(registered, rows, gateway)
    has_probabilities = registered.signature.probabilities_output is not None
    return (
        np.asarray(labels, dtype=evaluation.labels.dtype),
        np.asarray(probabilities, dtype=np.float64) if has_probabilities else None,
    )


def ask_gateway_rows(
    registered: RegisteredVersion, rows: Sequence[Sequence[Any]], gateway: GatewayResource
) -> tuple[list[Any], list[list[float]]]:
    """Return labels and probabilities (none for a regression) for rows made by `json_rows`.

    Raises:
        GatewayClientError: a request was not answered, or by another version.
    """
    return _ask_in_batches(
        registered, rows, lambda part: gateway.predict(registered.model_name, part)
    )


def ask_gateway_entities(
    registered: RegisteredVersion,
    entities: Sequence[Mapping[str, int | str]],
    request: Sequence[Mapping[str, Any]],
    gateway: GatewayResource,
) -> tuple[list[Any], list[list[float]]]:
    """Return the same for entity keys (their features are looked up) and request features."""
    pairs = list(zip(entities, request, strict=True))

    def ask(part: Sequence[tuple[Mapping[str, int | str], Mapping[str, Any]]]) -> PredictResponse:
        return gateway.predict_entities(
            registered.model_name, [keys for keys, _ in part], [sent for _, sent in part]
        )

    return _ask_in_batches(registered, pairs, ask)


def _ask_in_batches(
    registered: RegisteredVersion,
    rows: Sequence[Row],
    ask: Callable[[Sequence[Row]], PredictResponse],
) -> tuple[list[Any], list[list[float]]]:
    """Ask in batches, halved until the gateway accepts them: only it knows its limits."""
    labels: list[Any] = []
    probabilities: list[list[float]] = []
    step, start = min(_BATCH_ROWS, registered.signature.max_batch_rows), 0
    while start < len(rows):
        try:
            answer = ask(rows[start : start + step])
        except GatewayRefused as refusal:
            if refusal.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE or step == 1:
                raise
            step = max(1, step // 2)
            continue
        if answer.version != registered.version:
            raise GatewayClientError(
                f"POST /predict was answered by version {answer.version}, not {registered.version}"
            )
        labels += answer.predictions
        probabilities += answer.probabilities or []
        start += step
    return labels, probabilities


def json_rows(signature: Signature, features: pd.DataFrame) -> list[list[Any]]:
    """Return tensor-form rows as a client sends them: in signature order, None where missing."""
    columns = [_json_column(feature, features[feature.name]) for feature in signature.features]
    return [list(row) for row in zip(*columns, strict=True)]


def _json_column(feature: Feature, column: pd.Series[Any]) -> Iterator[Any]:
    word = {DType.INT64: int, DType.BOOL: bool, DType.BYTES: str}.get(feature.dtype, float)
    for value in column.tolist():
        missing = feature.nullable and (value == "" or value != value)  # noqa: PLR0124 # NaN
        yield None if missing else word(value)


def ask_triton(
    registered: RegisteredVersion,
    features: pd.DataFrame,
    triton: TritonEndpoint,
    batch_rows: int = _BATCH_ROWS,
) -> ModelAnswers:
    """Let Triton itself answer rows in tensor form with one version; raises as `infer` does."""
    signature = registered.signature
    inputs, outputs = model_inputs(signature, features), output_names(signature)
    batch = min(batch_rows, signature.max_batch_rows)
    with triton.connection(
        f"infer with {registered.model_name} version {registered.version}"
    ) as infer:
        answers = [
            infer(
                registered.model_name,
                registered.version,
                {name: array[start : start + batch] for name, array in inputs.items()},
                outputs,
            )
            for start in range(0, len(features), batch)
        ]
    joined = {name: np.concatenate([answer[name] for answer in answers]) for name in outputs}
    return answers_in(joined, signature)


def warm_up(
    spec: ModelSpec, state: ServingState, triton: TritonResource, mlflow: MlflowResource
) -> str:
    """Let a version answer some evaluation rows, so that no client hits a cold version.

    Returns what was done, for display. Errors here are left to the gates, which ask the same
    version.
    """
    row_count = spec.serving.warm_up_rows
    if not row_count:
        return "no rows are wanted"
    try:
        registered = mlflow.version(state.model_name, state.version)
        rows = mlflow.evaluation_set(state.run_id).features.head(row_count)
        triton.everywhere(lambda endpoint: ask_triton(registered, rows, endpoint, batch_rows=1))
    except (RegistryError, TritonError) as error:
        return f"stopped: {error}"
    return f"{len(rows)} rows"
