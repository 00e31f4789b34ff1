"""Model files for tests, and how to write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.components.diagnostics import Diagnostic, ModelFileError
from platform_assets.components.model_file import read_model

TYPE = "type: platform_assets.components.TabularModel\n"
MINIMAL = (
    TYPE
    + """attributes:
  source: {file: patients.csv}
  join_key: {column: patient_id}
  features:
    age: integer
    ward: text
    smoker: {type: boolean, nullable: true}
    weight:
  target: {column: readmitted, type: boolean}
  task: binary
  gates: {metric_floor: 0.6}
"""
)
FULL = (
    TYPE
    + """attributes:
  model_name: stays
  description: Days in hospital.
  owners: [ml@example.org, "team:wards"]
  tags: {domain: health}
  source:
    sql:
      url: postgresql://reader:${SOURCE_PASSWORD}@db/hospital
      query: SELECT * FROM stays
      timeout: 10m
      changed: SELECT max(changed) FROM stays
    check_every: 5m
  join_key: {column: stay, type: text}
  event_timestamp: {column: admitted, timezone: Europe/Berlin}
  ttl: 1d12h
  features:
    - {name: age, type: integer, minimum: 0, maximum: 130}
    - name: ward
      type: text
    - dose
    - {name: rate, type: double, nullable: true}
  target: {column: days, drop_missing: true}
  task: regression
  candidates:
    - ridge
    - estimator: random_forest
      grid: {max_depth: [4, null], n_estimators: 50}
    - function: tests.support.estimators:boosted
  evaluation: {metric: mean_absolute_error, folds: 3, fraction: 0.25, seed: 7, threads: 2}
  gates: {metric_floor: 2, regression_tolerance: 0.1, allow_breaking: true}
  serving: {max_batch_size: 64, dynamic_batching: true, instances: 2, retention: 3}
  automation:
    schedule: 0 3 * * MON
    on_new_data: true
    on_drift: true
    drift_schedule: "@daily"
    freshness: 24h
    timezone: Europe/Zurich
  kubernetes:
    resources:
      trained_model: {cpu: 2, memory: 4Gi}
      features: {memory: 1.5G}
"""
)


def write(folder: Path, text: str | bytes, name: str = "patients") -> Path:
    file = folder / name / "defs.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(file: Path) -> list[Diagnostic]:
    with pytest.raises(ModelFileError) as caught:
        read_model(file)
    return list(caught.value.problems)
