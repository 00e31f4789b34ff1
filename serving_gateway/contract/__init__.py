"""All that the pipeline and the gateway share: names, signature, routing record, bodies.

Nothing here does I/O. The words are those of the README's glossary; a version is the same
integer in MLflow, in the Triton repository and in the routing record, never mapped.
"""

from __future__ import annotations

from serving_gateway.contract.control import (
    ReloadRequest,
    ReloadResponse,
    RollbackRequest,
    TrafficRequest,
    TrafficResponse,
)
from serving_gateway.contract.errors import (
    ErrorResponse,
)
from serving_gateway.contract.names import (
    CODE_VERSION_TAG,
    CONFIG_FILE,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    DEFAULT_MODEL,
    LABEL_OUTPUT,
    MAX_BATCH_SIZE,
    MODEL_FILE,
    ONNX_DIGEST_TAG,
    PROBABILITIES_OUTPUT,
    PROVENANCE_FILE,
    RUN_ID_TAG,
    SIGNATURE_TAG,
    VARIANTS,
    check_model_name,
    is_model_name,
    version_directory,
)
from serving_gateway.contract.prediction import (
    EntityId,
    FeatureSource,
    PredictRequest,
    PredictResponse,
)
from serving_gateway.contract.routing import (
    RECORD_SCHEMA,
    Mode,
    RoutingRecord,
    Slot,
    Strategy,
    Switch,
    Traffic,
)
from serving_gateway.contract.shadow import (
    Disagreement,
    MeanDifference,
    Pairing,
    Proportion,
    ShadowReport,
    ShadowSide,
)
from serving_gateway.contract.signature import (
    DType,
    Feature,
    Lineage,
    Signature,
    feature_contract,
)
from serving_gateway.contract.status import (
    ActiveVersion,
    EffectiveVersion,
    HealthStatus,
    LiveReplica,
    ModelStatus,
    ReadyStatus,
    ReplicaIdentity,
    ReplicaStatus,
    RoutingStatus,
    Ssot,
)

__all__ = [
    "CODE_VERSION_TAG",
    "CONFIG_FILE",
    "DAGSTER_RUN_TAG",
    "DATA_FINGERPRINT_TAG",
    "DEFAULT_MODEL",
    "LABEL_OUTPUT",
    "MAX_BATCH_SIZE",
    "MODEL_FILE",
    "ONNX_DIGEST_TAG",
    "PROBABILITIES_OUTPUT",
    "PROVENANCE_FILE",
    "RECORD_SCHEMA",
    "RUN_ID_TAG",
    "SIGNATURE_TAG",
    "VARIANTS",
    "ActiveVersion",
    "DType",
    "Disagreement",
    "EffectiveVersion",
    "EntityId",
    "ErrorResponse",
    "Feature",
    "FeatureSource",
    "HealthStatus",
    "Lineage",
    "LiveReplica",
    "MeanDifference",
    "Mode",
    "ModelStatus",
    "Pairing",
    "PredictRequest",
    "PredictResponse",
    "Proportion",
    "ReadyStatus",
    "ReloadRequest",
    "ReloadResponse",
    "ReplicaIdentity",
    "ReplicaStatus",
    "RollbackRequest",
    "RoutingRecord",
    "RoutingStatus",
    "ShadowReport",
    "ShadowSide",
    "Signature",
    "Slot",
    "Ssot",
    "Strategy",
    "Switch",
    "Traffic",
    "TrafficRequest",
    "TrafficResponse",
    "check_model_name",
    "feature_contract",
    "is_model_name",
    "version_directory",
]
