"""What makes one model differ from another: the description of a model file, as records.

A model file is validated into a `ModelSpec` (`platform_assets.components`), and the slices of the
chain take it, or the part of it that they need. Fields have the names and the meaning of the
file; where the slices call one by another name, its alias is that of the file.
"""

from platform_assets.model_spec.columns import EventTime, FeatureSpec, JoinKey, Label, Target
from platform_assets.model_spec.model import OF_THE_LOADER, AssetOptions, ModelSpec
from platform_assets.model_spec.operation import (
    ASSETS,
    CHAIN,
    MAX_INSTANCES,
    AutomationSpec,
    ComputeResources,
    Kubernetes,
    ServingSpec,
)
from platform_assets.model_spec.source import (
    SOURCE_PREFIX,
    Source,
    SqlQuery,
    hidden_variables,
)
from platform_assets.model_spec.training import (
    CandidateSpec,
    Evaluation,
    Gates,
    Scalar,
    Split,
    Task,
    WhenInconclusive,
)

__all__ = [
    "ASSETS",
    "CHAIN",
    "MAX_INSTANCES",
    "OF_THE_LOADER",
    "SOURCE_PREFIX",
    "AssetOptions",
    "AutomationSpec",
    "CandidateSpec",
    "ComputeResources",
    "Evaluation",
    "EventTime",
    "FeatureSpec",
    "Gates",
    "JoinKey",
    "Kubernetes",
    "Label",
    "ModelSpec",
    "Scalar",
    "ServingSpec",
    "Source",
    "Split",
    "SqlQuery",
    "Target",
    "Task",
    "WhenInconclusive",
    "hidden_variables",
]
