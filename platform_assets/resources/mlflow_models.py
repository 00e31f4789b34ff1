"""What a logged model of MLflow holds: the fitted estimator, and the ONNX graph beside it."""

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
"""What these packages bring."""
_DESCRIPTION_FILE: Final = "MLmodel"


def save_sklearn(
    estimator: Any, target: Path, logged: Any, signature: Signature, example: pd.DataFrame | None
) -> None:
    """Write a fitted estimator as a model of the scikit-learn flavor, without pickling it.

    `target` is a folder that does not exist yet, `logged` MLflow's `LoggedModel` that this becomes
    the content of, `example` a few rows in tensor form. The requirements are given: inferring
    them would start a process that imports everything again.
    """
    from mlflow.models import Model
    from mlflow.sklearn import save_model

    with warnings.catch_warnings():
        # MLflow warns about type hints of its own.
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
            f"{one}=={importlib.metadata.version(one)}" for one in distributions(types)
        ],
    )


def add_onnx_flavor(description: Path, graph: bytes, target: Path) -> None:
    """Write what turns a saved model into one of the ONNX flavor, too: `mlflow.onnx` loads it.

    `description` is the model's `MLmodel` file; the new one and the graph, whose bytes stay as
    they are (unlike by `mlflow.onnx.save_model`), go to the empty folder `target`.
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
    """Return the features as MLflow's `Schema`."""
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
        # Not required: `predict` of the scikit-learn flavor answers the labels alone.
        name = signature.probabilities_output
        outputs.append(ColSpec(Array("float"), name, required=False))
    return ModelSignature(inputs=column_schema(signature), outputs=Schema(outputs))


def distributions(types: list[str]) -> list[str]:
    """The packages that load a model with these types; a module that is not installed is none."""
    others = sorted({name.partition(".")[0] for name in types} - _MODULES)
    if not others:
        return [*_REQUIREMENTS]
    installed = importlib.metadata.packages_distributions()  # reads all of the environment
    own = [installed[name][0] for name in others if name in installed]
    return list(dict.fromkeys([*_REQUIREMENTS, *own]))


def _types(estimator: Any) -> list[str]:
    # The estimator was made a moment ago, of scikit-learn's, NumPy's and perhaps the user's own
    # parts, so all its types are trusted. A reader of the file decides independently.
    import skops.io  # type: ignore[import-untyped] # ships no stubs

    return list(skops.io.get_untrusted_types(data=skops.io.dumps(estimator)))
