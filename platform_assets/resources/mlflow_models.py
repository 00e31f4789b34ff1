"""The content of an MLflow logged model: the fitted estimator, and the ONNX graph beside it."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving_gateway.contract import MODEL_FILE, DType, Signature

if TYPE_CHECKING:
    import pandas as pd

_MLFLOW_TYPES: Final = {
    DType.FP32: "float",
    DType.FP64: "double",
    DType.INT64: "long",
    DType.BOOL: "boolean",
    DType.BYTES: "string",
}
_REQUIREMENTS: Final = ("scikit-learn", "skops", "numpy", "pandas")
_MODULES: Final = {"sklearn", "numpy", "pandas", "scipy"}
"""Modules of these packages."""
_DESCRIPTION_FILE: Final = "MLmodel"


def save_sklearn(
    estimator: Any, target: Path, logged: Any, signature: Signature, example: pd.DataFrame | None
) -> None:
    """Write a fitted estimator as a model of the scikit-learn flavor without pickling it.

    `target` is a folder that does not exist yet, `logged` the MLflow `LoggedModel` to fill,
    `example` a few rows in tensor form. Requirements are set explicitly, since inferring them
    would start a process that imports everything again.
    """
    from mlflow.models import Model
    from mlflow.sklearn import save_model

    with warnings.catch_warnings():
        # MLflow warns about its own type hints.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        import mlflow.pyfunc  # noqa: F401
    described = Model(
        artifact_path=logged.artifact_location,
        run_id=logged.source_run_id,
        model_id=logged.model_id,
    )
    types = _types(estimator)
    save_model(
        estimator,
        str(target),
        mlflow_model=described,
        serialization_format="skops",
        skops_trusted_types=types,
        signature=_mlflow_signature(signature),
        input_example=example,
        pip_requirements=[
            f"{package}=={importlib.metadata.version(package)}" for package in distributions(types)
        ],
    )


def add_onnx_flavor(description: Path, graph: bytes, target: Path) -> None:
    """Write the files that add the ONNX flavor to a saved model, so that `mlflow.onnx` loads it.

    `description` is the model's `MLmodel` file; the new one and the graph, whose bytes stay
    unchanged (unlike in `mlflow.onnx.save_model`), go into the empty folder `target`.
    """
    import onnx
    from mlflow.models import Model

    model = Model.load(str(description))
    model.add_flavor(
        "onnx",
        onnx_version=onnx.__version__,
        data=MODEL_FILE,
        providers=["CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    (target / MODEL_FILE).write_bytes(graph)
    model.save(str(target / _DESCRIPTION_FILE))


def column_schema(signature: Signature) -> Any:
    """Return the features as an MLflow `Schema`."""
    from mlflow.types import ColSpec, Schema

    return Schema([ColSpec(_MLFLOW_TYPES[f.tensor_dtype], f.name) for f in signature.features])


def _mlflow_signature(signature: Signature) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import Array

    answer = "double"
    if signature.classes:
        answer = "string" if isinstance(signature.classes[0], str) else "long"
    outputs: list[ColSpec | TensorSpec] = [ColSpec(answer, signature.label_output)]
    if signature.probabilities_output is not None:
        # Not required: `predict` of the scikit-learn flavor only answers labels.
        name = signature.probabilities_output
        outputs.append(ColSpec(Array("float"), name, required=False))
    return ModelSignature(inputs=column_schema(signature), outputs=Schema(outputs))


def distributions(types: list[str]) -> list[str]:
    """Return the packages needed to load these types; modules without a package are skipped."""
    others = sorted({name.partition(".")[0] for name in types} - _MODULES)
    if not others:
        return [*_REQUIREMENTS]
    installed = importlib.metadata.packages_distributions()  # reads the whole environment
    own = [installed[name][0] for name in others if name in installed]
    return list(dict.fromkeys([*_REQUIREMENTS, *own]))


def _types(estimator: Any) -> list[str]:
    # The estimator was just made from scikit-learn's, NumPy's and perhaps the user's parts, so
    # all its types are trusted. Readers of the file decide independently.
    import skops.io  # type: ignore[import-untyped] # ships no stubs

    return list(skops.io.get_untrusted_types(data=skops.io.dumps(estimator)))
