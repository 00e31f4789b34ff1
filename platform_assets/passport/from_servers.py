"""The present records of a version in MLflow and the model repository."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from platform_assets.ledger.verification import Anchor
from platform_assets.passport.document import CODE, DATA, DIGESTS, TRAINING, VersionRecords
from platform_assets.resources.mlflow import MlflowResource, RegistryError
from platform_assets.resources.mlflow_versions import SPLIT_TAG
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.serving.ledger_entries import HEAD_TAG
from platform_assets.serving.switch_evidence import package_digests
from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    MODEL_FILE,
    ONNX_DIGEST_TAG,
    RUN_ID_TAG,
    SIGNATURE_DIGEST_TAG,
)

_METRIC: Final = "metric."


def collect_from_mlflow(mlflow: MlflowResource, model_name: str, version: int) -> VersionRecords:
    """Return what MLflow has of a version and its run, and the anchors of the model's ledger."""
    records = VersionRecords()
    try:
        versions = {one.version: one for one in mlflow.versions(model_name)}
        for one in versions.values():
            records.anchors += _anchor(one.tags, one.version)
        if version not in versions:
            records.missing.append(f"MLflow knows no version {version}.")
            return records
        _add_version(records, versions[version].tags)
        if run_id := versions[version].run_id:
            _add_run(records, mlflow.run_tags(run_id))
    except RegistryError as error:
        records.missing.append(f"MLflow did not return all of its records: {error}.")
    return records


def _anchor(tags: dict[str, str], version: int) -> list[Anchor]:
    number, _, digest = tags.get(HEAD_TAG, "").partition(" ")
    source = f"MLflow's tag of version {version}"
    return [Anchor(int(number), digest, source)] if number.isdecimal() and digest else []


def _add_version(records: VersionRecords, tags: dict[str, str]) -> None:
    source = "MLflow, version"
    metrics = {name: value for name, value in tags.items() if name.startswith(_METRIC)}
    records.add(
        DATA,
        source,
        {"fingerprint": tags.get(DATA_FINGERPRINT_TAG), "split": _json(tags.get(SPLIT_TAG))},
    )
    records.add(CODE, source, {"code_version": tags.get(CODE_VERSION_TAG)})
    records.add(
        TRAINING,
        source,
        {
            "MLflow run": tags.get(RUN_ID_TAG),
            "Dagster run": tags.get(DAGSTER_RUN_TAG),
            "metrics": {name.removeprefix(_METRIC): value for name, value in metrics.items()},
        },
    )
    records.add(
        DIGESTS,
        source,
        {"model.onnx": tags.get(ONNX_DIGEST_TAG), "signature": tags.get(SIGNATURE_DIGEST_TAG)},
    )


def _add_run(records: VersionRecords, tags: dict[str, str]) -> None:
    from platform_assets.resources.environment import ENVIRONMENT_TAG

    source = "MLflow, run"
    records.add(
        CODE,
        source,
        {
            "git commit": tags.get("mlflow.source.git.commit"),
            "environment": _json(tags.get(ENVIRONMENT_TAG)),
        },
    )
    records.add(TRAINING, source, {"user": tags.get("mlflow.user")})


def _json(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text


def collect_from_repository(
    repository: ModelRepository, model_name: str, version: int
) -> VersionRecords:
    """Return the digests of the files of a version as they are now."""
    records = VersionRecords()
    folder = repository.path(model_name, version)
    try:
        with (folder / MODEL_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        records.missing.append(
            f"The files of the version are not in the model repository: {error}."
        )
        return records
    records.add(DIGESTS, "model repository, now", {"model.onnx": digest})
    packaged = package_digests(model_name, version, repository)
    if "problem" in packaged:
        records.missing.append(
            f"The version in the model repository is not whole: {packaged['problem']}."
        )
        return records
    source = "model repository, provenance.json"
    records.add(DATA, source, {"fingerprint": packaged["data_fingerprint"]})
    records.add(
        DIGESTS,
        source,
        {
            "model.onnx": packaged["onnx_sha256"],
            "provenance.json": packaged["provenance_sha256"],
            "packaged by": packaged["packaged_by"],
        },
    )
    return records
