"""What is answered over the wire against what scikit-learn answered in training."""

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
    asked: RegisteredVersion, evaluation: EvaluationSet, gateway: GatewayResource
) -> ModelAnswers:
    """Ask any replica about the rows, as a client writes them; labels are of the rows' type.

    Raises:
        GatewayClientError: a request was not answered, or by another version.
    """
    rows = json_rows(asked.signature, evaluation.features)
    labels, probabilities = ask_gateway_rows(asked, rows, gateway)
    has_probabilities = asked.signature.probabilities_output is not None
    return (
        np.asarray(labels, dtype=evaluation.labels.dtype),
        np.asarray(probabilities, dtype=np.float64) if has_probabilities else None,
    )


def ask_gateway_rows(
    asked: RegisteredVersion, rows: Sequence[Sequence[Any]], gateway: GatewayResource
) -> tuple[list[Any], list[list[float]]]:
    """Return the labels and the probabilities (none for a regression) of rows of `json_rows`.

    Raises:
        GatewayClientError: a request was not answered, or by another version.
    """
    return _ask_in_batches(asked, rows, lambda part: gateway.predict(asked.model_name, part))


def ask_gateway_entities(
    asked: RegisteredVersion,
    entities: Sequence[Mapping[str, int | str]],
    request: Sequence[Mapping[str, Any]],
    gateway: GatewayResource,
) -> tuple[list[Any], list[list[float]]]:
    """Return the same for keys, whose features the gateway looks up, and request features."""
    pairs = list(zip(entities, request, strict=True))

    def ask(part: Sequence[tuple[Mapping[str, int | str], Mapping[str, Any]]]) -> PredictResponse:
        return gateway.predict_entities(
            asked.model_name, [keys for keys, _ in part], [sent for _, sent in part]
        )

    return _ask_in_batches(asked, pairs, ask)


def _ask_in_batches(
    asked: RegisteredVersion, rows: Sequence[Row], ask: Callable[[Sequence[Row]], PredictResponse]
) -> tuple[list[Any], list[list[float]]]:
    """Ask in batches that the gateway takes: what its own limits are is for it to say."""
    labels: list[Any] = []
    probabilities: list[list[float]] = []
    step, start = min(_BATCH_ROWS, asked.signature.max_batch_rows), 0
    while start < len(rows):
        try:
            answer = ask(rows[start : start + step])
        except GatewayRefused as refusal:
            if refusal.status != HTTPStatus.REQUEST_ENTITY_TOO_LARGE or step == 1:
                raise
            step = max(1, step // 2)
            continue
        if answer.version != asked.version:
            raise GatewayClientError(
                f"POST /predict was answered by version {answer.version}, not {asked.version}"
            )
        labels += answer.predictions
        probabilities += answer.probabilities or []
        start += step
    return labels, probabilities


def json_rows(signature: Signature, features: pd.DataFrame) -> list[list[Any]]:
    """Rows in tensor form as a client writes them: in signature order, None for what is missing."""
    columns = [_json_column(feature, features[feature.name]) for feature in signature.features]
    return [list(row) for row in zip(*columns, strict=True)]


def _json_column(feature: Feature, column: pd.Series[Any]) -> Iterator[Any]:
    word = {DType.INT64: int, DType.BOOL: bool, DType.BYTES: str}.get(feature.dtype, float)
    for value in column.tolist():
        missing = feature.nullable and (value == "" or value != value)  # noqa: PLR0124 # NaN
        yield None if missing else word(value)


def ask_triton(
    asked: RegisteredVersion,
    features: pd.DataFrame,
    triton: TritonEndpoint,
    batch_rows: int = _BATCH_ROWS,
) -> ModelAnswers:
    """Ask Triton itself, by version, about rows in tensor form; errors are those of `infer`."""
    signature = asked.signature
    inputs, outputs = model_inputs(signature, features), output_names(signature)
    batch = min(batch_rows, signature.max_batch_rows)
    with triton.connection(f"infer with {asked.model_name} version {asked.version}") as infer:
        answers = [
            infer(
                asked.model_name,
                asked.version,
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
    """Let a version answer some evaluation rows, so that no client meets a cold one.

    Returns what was done, for people. What goes wrong in here is for the gates to say; they ask
    the same version.
    """
    wanted = spec.serving.warm_up_rows
    if not wanted:
        return "no rows are wanted"
    try:
        asked = mlflow.version(state.model_name, state.version)
        rows = mlflow.evaluation_set(state.run_id).features.head(wanted)
        triton.everywhere(lambda endpoint: ask_triton(asked, rows, endpoint, batch_rows=1))
    except (RegistryError, TritonError) as error:
        return f"stopped: {error}"
    return f"{len(rows)} rows"
