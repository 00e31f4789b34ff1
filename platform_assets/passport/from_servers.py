"""The current records of a version in MLflow and the model repository."""

from __future__ import annotations

import hashlib
from typing import Final

from platform_assets.ledger.verification import Anchor
from platform_assets.passport.document import (
    CODE,
    DATA,
    DIGESTS,
    TRAINING,
    VersionRecords,
    digest_facts,
    parse_json,
)
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
    PROVENANCE_FILE,
    RUN_ID_TAG,
    SIGNATURE_DIGEST_TAG,
)

_METRIC: Final = "metric."


def collect_from_mlflow(mlflow: MlflowResource, model_name: str, version: int) -> VersionRecords:
    """Return MLflow's records of a version and its run, and the anchors of the model's ledger."""
    from platform_assets.resources.environment import ENVIRONMENT_TAG

    records = VersionRecords()
    try:
        versions = {entry.version: entry for entry in mlflow.versions(model_name)}
        for entry in versions.values():
            records.anchors += _anchor(entry.tags, entry.version)
        if version not in versions:
            records.missing.append(f"MLflow knows no version {version}.")
            return records
        _add_version(records, versions[version].tags)
        if run_id := versions[version].run_id:
            tags = mlflow.run_tags(run_id)
            code = {
                "git commit": tags.get("mlflow.source.git.commit"),
                "environment": parse_json(tags.get(ENVIRONMENT_TAG)),
            }
            records.add("MLflow, run", {CODE: code, TRAINING: {"user": tags.get("mlflow.user")}})
    except RegistryError as error:
        records.missing.append(f"MLflow did not return all of its records: {error}.")
    return records


def _anchor(tags: dict[str, str], version: int) -> list[Anchor]:
    number, _, digest = tags.get(HEAD_TAG, "").partition(" ")
    source = f"MLflow's tag of version {version}"
    return [Anchor(int(number), digest, source)] if number.isdecimal() and digest else []


def _add_version(records: VersionRecords, tags: dict[str, str]) -> None:
    metrics = {name: value for name, value in tags.items() if name.startswith(_METRIC)}
    digests = {"model.onnx": ONNX_DIGEST_TAG, "signature": SIGNATURE_DIGEST_TAG}
    split = parse_json(tags.get(SPLIT_TAG))
    records.add(
        "MLflow, version",
        {
            DATA: {"fingerprint": tags.get(DATA_FINGERPRINT_TAG), "split": split},
            CODE: {"code_version": tags.get(CODE_VERSION_TAG)},
            TRAINING: {
                "MLflow run": tags.get(RUN_ID_TAG),
                "Dagster run": tags.get(DAGSTER_RUN_TAG),
                "metrics": {name.removeprefix(_METRIC): value for name, value in metrics.items()},
            },
            DIGESTS: {name: tags.get(tag) for name, tag in digests.items()},
        },
    )


def collect_from_repository(
    repository: ModelRepository, model_name: str, version: int
) -> VersionRecords:
    """Return the current digests of the files of a version."""
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
    try:
        provenance = hashlib.sha256((folder / PROVENANCE_FILE).read_bytes()).hexdigest()
    except OSError as error:
        provenance = f"none ({error})"
    digests = {"model.onnx": digest, "provenance.json": provenance}
    records.add("model repository, now", {DIGESTS: digests})
    packaged = package_digests(model_name, version, repository)
    if "problem" in packaged:
        records.missing.append(
            f"The version in the model repository is not whole: {packaged['problem']}."
        )
        return records
    records.add(
        "model repository, provenance.json",
        {DATA: {"fingerprint": packaged["data_fingerprint"]}, DIGESTS: digest_facts(packaged)},
    )
    return records
