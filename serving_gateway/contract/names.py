"""Names, paths and limits that both sides use; the tags under which MLflow keeps what is served."""

from __future__ import annotations

import re
from typing import Final

DEFAULT_MODEL: Final = "best_model"
VARIANTS: Final = ("A", "B")
"""A is production, B is the shadow or the candidate."""

MODEL_FILE: Final = "model.onnx"
PROVENANCE_FILE: Final = "provenance.json"
CONFIG_FILE: Final = "config.pbtxt"

LABEL_OUTPUT: Final = "label"
PROBABILITIES_OUTPUT: Final = "probabilities"

RUN_ID_TAG: Final = "serving.run_id"
SIGNATURE_DIGEST_TAG: Final = "serving.signature_sha256"
ONNX_DIGEST_TAG: Final = "serving.onnx_sha256"
DATA_FINGERPRINT_TAG: Final = "serving.data_fingerprint"
CODE_VERSION_TAG: Final = "serving.code_version"
DAGSTER_RUN_TAG: Final = "serving.dagster_run_id"
"""Tags of a registered model version in MLflow."""

SIGNATURE_ARTIFACT: Final = "serving/signature.json"
"""Where the run keeps the signature: with thousands of features no tag could hold it."""

TIMELESS: Final = 946_684_800
"""Event time of stored values that have none: the start of 2000, in seconds since the epoch."""

MAX_BATCH_SIZE: Final = 1024
"""Rows that one inference may carry: packaging writes it to config.pbtxt, the gateway keeps it."""

PLATFORM_HEADER: Final = "x-platform-request"
"""Header of inferences that the platform asks for itself. They are no traffic: A answers them
for any split, and they appear in no metric of clients, sample or shadow statistic. Only a
control token may set it."""

_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}", re.ASCII)


def is_model_name(name: str) -> bool:
    """Whether `check_model_name` accepts `name`."""
    return _MODEL_NAME.fullmatch(name) is not None


def check_model_name(name: str) -> str:
    """Return `name` when MLflow and Triton may both use it; else `ValueError`.

    Path parts, leading digits (Triton reads them as a version) and look-alike letters may not.
    """
    if not is_model_name(name):
        raise ValueError(
            f"model name {name!r}: use an ASCII letter, then up to 99 ASCII letters, digits, "
            "underscores or hyphens"
        )
    return name
