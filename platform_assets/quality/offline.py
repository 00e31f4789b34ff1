"""The offline estimate in a version's MLflow run: its classes, and the metric on held-out rows."""

from __future__ import annotations

import math

import numpy as np

from platform_assets.model_spec import Label, ModelSpec, Task
from platform_assets.quality.records import CONFIDENCE, OfflineEstimate
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.training.floor import estimate_metric
from platform_assets.training.metrics import Answers, chosen_metric


def offline_estimate(
    mlflow: MlflowResource, spec: ModelSpec, version: int
) -> tuple[tuple[Label, ...], OfflineEstimate | str]:
    """Return the classes of a version, and its estimate or the reason why there is none.

    Where MLflow cannot be asked, the classes are those of the model file.
    """
    target = spec.target
    classes: tuple[Label, ...] = target.class_names or target.classes
    try:
        registered = mlflow.version(spec.model_name, version)
        classes = registered.signature.classes or classes
        held_out = mlflow.evaluation_set(registered.run_id)
    except (RegistryError, ValueError, KeyError) as error:
        return classes, f"the run of version {version} cannot be read ({error})"
    answers = Answers(held_out.label_true, held_out.labels, held_out.probabilities, classes)
    estimate = estimate_metric(chosen_metric(spec.evaluation), answers, held_out.groups, CONFIDENCE)
    scale = math.nan
    if spec.task is Task.REGRESSION and len(held_out.label_true):
        scale = float(np.ptp(held_out.label_true))
    return classes, OfflineEstimate(estimate.value, estimate.low, estimate.high, scale)
