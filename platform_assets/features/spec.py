"""What makes one model differ from another: columns, types, target, candidates, gates.

The code of the slices takes a `ModelSpec` and knows no iris; a declarative model file can
later build the same record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from serving_gateway.contract import DEFAULT_MODEL, DType, Feature, Signature, check_model_name


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One column that the model reads.

    `minimum` and `maximum` are the values that the blocking range check accepts, inclusive,
    in the column's own unit; None leaves that side open.
    """

    name: str
    dtype: DType = DType.FP32
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """How the model is chosen.

    `candidates` names entries of `training.candidates.CANDIDATES`; `evaluation_fraction` of
    the entities is held out; `folds` is wanted and lowered where the rarest class has fewer
    rows; `accuracy_floor` is the default of the metric gate.
    """

    candidates: tuple[str, ...]
    metric: str = "accuracy"
    folds: int = 5
    evaluation_fraction: float = 0.2
    seed: int = 20240301
    accuracy_floor: float = 0.9
    entities_per_class: int = 3
    """Fewest different entities of a class: one to evaluate, two to cross-validate."""
    threads: int = 1
    """Upper bound for scikit-learn's and the numeric libraries' threads."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model: its source columns, its Feast names and its training.

    `classes` are the labels as the source writes them, in the order of the probabilities.
    """

    model_name: str
    features: tuple[FeatureSpec, ...]
    target: str
    classes: tuple[int, ...]
    training: TrainingSpec
    join_key: str = "entity_id"
    event_timestamp: str = "event_timestamp"
    feature_view: str = "best_model_features"
    feature_service: str = "best_model_v1"
    packed_input: str | None = "features"
    class_names: tuple[str, ...] = field(default=())
    """Words for people, in the order of `classes`; pictures use them."""
    ttl: timedelta = timedelta(days=3650)

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        if self.class_names and len(self.class_names) != len(self.classes):
            raise ValueError(
                f"{self.model_name}: {len(self.class_names)} class names for "
                f"{len(self.classes)} classes"
            )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Feature columns in training order, which is the order of a row's columns."""
        return tuple(feature.name for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the source has to have, and no other."""
        return (self.join_key, self.event_timestamp, *self.feature_names, self.target)

    @property
    def signature(self) -> Signature:
        """What a version of this model reads and answers."""
        return Signature(
            features=tuple(Feature(name=f.name, dtype=f.dtype) for f in self.features),
            packed_input=self.packed_input,
            classes=self.classes,
            feature_service=self.feature_service,
        )


IRIS = ModelSpec(
    model_name=DEFAULT_MODEL,
    features=(
        FeatureSpec("sepal_length", minimum=1.0, maximum=12.0),
        FeatureSpec("sepal_width", minimum=0.5, maximum=8.0),
        FeatureSpec("petal_length", minimum=0.1, maximum=12.0),
        FeatureSpec("petal_width", minimum=0.01, maximum=6.0),
    ),
    target="species",
    classes=(0, 1, 2),
    class_names=("setosa", "versicolor", "virginica"),
    training=TrainingSpec(
        candidates=(
            "logistic_regression",
            "linear_discriminant",
            "random_forest",
            "gradient_boosting",
        ),
    ),
)
"""The model that the platform ships with; lengths and widths are centimetres."""
