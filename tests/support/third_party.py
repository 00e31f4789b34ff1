"""What another team's training job does: fits a model of its own and registers it in MLflow.

Run as a program it uses MLflow's own ONNX flavour, as such a job would:
`python -m tests.support.third_party TRACKING_URI MODEL_NAME GRAPH_FILE`.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from platform_assets.export.inspection import CONTRACT_KEY, FEATURES_KEY
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.mlflow_client import open_client
from serving_gateway.contract import feature_contract
from tests.support.onnx_models import OPSET


class MaliciousObject:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def malicious_pickle(trace: Path) -> bytes:
    """A pickle that makes the folder `trace` where it is opened."""
    return pickle.dumps(MaliciousObject(trace))


def third_party_graph(
    spec: ModelSpec, source: Path, *, strength: float = 1.0, metadata: bool = True
) -> bytes:
    """Fit a classifier on a CSV source; all features in one tensor, as the spec has them.

    `metadata` says in the graph which features these are, as the platform wants it.
    """
    import msgspec
    import pandas as pd
    from onnx import helper
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression

    frame = pd.read_csv(source)
    rows = frame[list(spec.feature_names)].astype("float32").to_numpy()
    model = LogisticRegression(max_iter=2000, C=strength).fit(rows, frame[spec.target.name])
    graph = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, len(spec.features)]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    if metadata:
        features = [feature.feature for feature in spec.features]
        named = {
            CONTRACT_KEY: feature_contract(features),
            FEATURES_KEY: msgspec.json.encode(features).decode(),
        }
        helper.set_model_props(graph, named)
    return bytes(graph.SerializeToString())


def register_files(tracking_uri: str, model_name: str, files: dict[str, bytes]) -> int:
    """Register a version from a run that has these files, and return its number."""
    client = open_client(tracking_uri)
    run_id = client.create_run(_experiment(client, f"other team, {model_name}")).info.run_id
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        client.log_artifacts(run_id, folder, "model")
    client.set_terminated(run_id)
    made = client.create_model_version(model_name, f"runs:/{run_id}/model", run_id)
    return int(made.version)


def register_by_flavour(tracking_uri: str, model_name: str, graph: bytes, home: Path) -> int:
    """Register a graph by MLflow's ONNX flavour, in a process of its own."""
    file = home / "third_party.onnx"
    file.write_bytes(graph)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.support.third_party",
            tracking_uri,
            model_name,
            file,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _main(tracking_uri: str, model_name: str, file: str) -> None:
    import mlflow
    import onnx

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("other team")
    with mlflow.start_run():
        made = mlflow.onnx.log_model(
            onnx.load(file),
            name="classifier",
            registered_model_name=model_name,
            pip_requirements=["onnxruntime"],
        )
    print(made.registered_model_version)


if __name__ == "__main__":
    _main(*sys.argv[1:])
