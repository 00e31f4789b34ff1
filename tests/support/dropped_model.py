"""A table of a person's own, from which a model is made, and three ways to ask it."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import tritonclient.http as triton_http

from platform_assets.resources.mlflow_client import open_client
from tests.support.load import ask_patiently

NAME: Final = "outcome"
CLASSES: Final = ("beobachten", "gesund", "zurück")
_ROWS: Final = 300
_FIRST: Final = datetime(2026, 1, 1, 8, tzinfo=UTC)
"""Times of the rows make the model one that is evaluated on the newest of them."""
_WARDS: Final = ("Köln", "北棟", "Zürich, 2. Stock", 'the "old" one', None)
_SAME: Final = 1e-4
"""Largest difference of a probability that counts as the same answer."""


@dataclass(frozen=True)
class Answers:
    """Labels, shape (rows,), and probabilities in the order of `CLASSES`, shape (rows, 3)."""

    labels: list[str]
    probabilities: np.ndarray[Any, np.dtype[Any]]

    def differing(self, other: Answers) -> list[int]:
        """The rows that `other` answers otherwise."""
        assert self.probabilities.shape == other.probabilities.shape == (_ROWS, len(CLASSES))
        apart = np.abs(self.probabilities - other.probabilities).max(axis=1) > _SAME
        labels = zip(self.labels, other.labels, strict=True)
        return [i for i, (a, b) in enumerate(labels) if apart[i] or a != b]


def patients() -> dict[str, dict[str, Any]]:
    """Rows by key, as a client would write them in JSON, and `outcome` beside them."""
    chance = random.Random(7)
    rows = {}
    for number in range(_ROWS):
        row: dict[str, Any] = {
            "age": chance.randint(18, 95),
            "weight": None if chance.random() < 0.15 else round(chance.gauss(78, 14), 1),
            "ward": chance.choice(_WARDS),
            "visits": None if chance.random() < 0.15 else chance.randint(0, 9),
            "smoker": chance.random() < 0.4,
        }
        risk = (row["age"] - 55) / 15 + (row["ward"] == "Köln") + row["smoker"]
        risk += (row["visits"] or 0) / 4 + chance.gauss(0, 0.4)
        row["outcome"] = CLASSES[2 if risk > 1.8 else 1 if risk < 0.6 else 0]
        rows[f"Ä-{number:03}"] = row
    return rows


def drop(folder: Path) -> Path:
    """Put the table into `folder`, where its model file is to be, and return its path."""
    folder.mkdir()
    table = folder / "patients.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "admitted", *next(iter(patients().values()))))
        for day, (key, row) in enumerate(patients().items()):
            admitted = (_FIRST + timedelta(days=day)).isoformat()
            cells = [str(cell).lower() if isinstance(cell, bool) else cell for cell in row.values()]
            writer.writerow((key, admitted, *cells))
    return table


def by_instances(gateway_url: str) -> Answers:
    """Ask for all rows by names of features, null where a value is missing."""
    return _predicted(gateway_url, instances=_instances())


def by_entity(gateway_url: str) -> Answers:
    """Ask for all rows by key: the first alone, the others together."""
    first, *others = patients()
    alone = _predicted(gateway_url, entity_id=first)
    together = _predicted(gateway_url, entity_ids=others)
    return Answers(
        alone.labels + together.labels,
        np.concatenate([alone.probabilities, together.probabilities]),
    )


def by_v2(gateway_url: str) -> Answers:
    """Ask for all rows by Triton's own client, in tensors: NaN and "" where values are missing."""
    frame, inputs = tensor_form(), []
    for name, datatype in (
        ("age", "INT64"),
        ("weight", "FP32"),
        ("ward", "BYTES"),
        ("visits", "FP64"),
        ("smoker", "BOOL"),
    ):
        tensor = triton_http.InferInput(name, [_ROWS, 1], datatype)
        tensor.set_data_from_numpy(frame[[name]].to_numpy())
        inputs.append(tensor)
    with triton_http.InferenceServerClient(urlsplit(gateway_url).netloc) as client:
        answer = client.infer(NAME, inputs)
    labels = [label.decode() for label in answer.as_numpy("label").ravel()]
    return Answers(labels, answer.as_numpy("probabilities"))


Way = Callable[[str], Answers]
WAYS: Final[tuple[Way, ...]] = (by_instances, by_entity, by_v2)


def by_scikit_learn(mlflow_url: str, run_id: str) -> Answers:
    """Ask the estimator that MLflow keeps for the run, without anything of the platform."""
    from mlflow.sklearn import load_model
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = open_client(mlflow_url)
    model_id = client.get_run(run_id).outputs.model_outputs[0].model_id
    kept = client.get_logged_model(model_id).artifact_location
    files: Any = get_artifact_repository(kept, mlflow_url)
    load: Any = load_model
    estimator = load(files.download_artifacts(""))
    order = [list(estimator.classes_).index(label) for label in CLASSES]
    frame = tensor_form()
    return Answers(list(estimator.predict(frame)), estimator.predict_proba(frame)[:, order])


def tensor_form() -> pd.DataFrame:
    """The rows as a Triton client holds them, made here and not by the platform."""
    frame = pd.DataFrame(_instances())
    return frame.assign(
        age=frame["age"].astype(np.int64),
        weight=frame["weight"].astype(np.float32),
        ward=frame["ward"].fillna("").astype(object),
        visits=frame["visits"].astype(np.float64),
        smoker=frame["smoker"].astype(np.bool_),
    )


def _instances() -> list[dict[str, Any]]:
    rows = patients().values()
    return [{k: v for k, v in row.items() if k != "outcome"} for row in rows]


def _predicted(gateway_url: str, **body: Any) -> Answers:
    answer = ask_patiently(f"{gateway_url}/models/{NAME}/predict", body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return Answers(found["predictions"], np.array(found["probabilities"]))
