"""Rules across the fields of a model file: dependent defaults and inconsistent values.

A field is judged against those above it in `ModelSpec`, as far as they are valid themselves:
`above` has them by name. Each rule yields places inside its field, with what is wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from platform_assets.model_spec.columns import EventTime, FeatureSpec, JoinKey, Label, Target
from platform_assets.model_spec.decision import Calibration, Threshold
from platform_assets.model_spec.feature_source import DEFAULT_TTL
from platform_assets.model_spec.fields import as_yaml
from platform_assets.model_spec.labels import LabelKey, Labels
from platform_assets.model_spec.outcomes import Outcomes
from platform_assets.model_spec.release import DEFAULT_GUARDRAILS, PAIRED, ReleaseSpec
from platform_assets.model_spec.training import (
    METRICS,
    PINBALL,
    UNWEIGHTED,
    CandidateSpec,
    Evaluation,
    Gates,
    Split,
    Task,
    estimators,
    metrics,
)
from platform_assets.model_spec.weighting import ClassWeights, WeightColumn
from serving_gateway.contract import DType, Guard

Above = Mapping[str, Any]
Problems = Iterator[tuple[tuple[int | str, ...], str]]
_Named = JoinKey | LabelKey | EventTime | Target | WeightColumn

_DEFAULT_CANDIDATES: Final = 3
_CLASSES: Final = {
    DType.BYTES: (str, "text"),
    DType.INT64: (int, "integer"),
    DType.BOOL: (bool, "boolean"),
}
"""Type of a target -> Python type of a class label read from YAML, and its name in messages."""


def fill_defaults(name: str, value: Any, above: Above) -> Any:
    """Return the field of this name with the defaults that depend on the fields above it."""
    task = above.get("task")
    if task is None:
        return value
    if isinstance(value, Target):
        is_open = task is Task.REGRESSION and value.type is None
        return replace(value, type=DType.FP64 if is_open else value.dtype)
    if isinstance(value, Evaluation):
        split = Split.TIME if above.get("event_time") else Split.ENTITY
        metric = value.metric or metrics(task)[0]
        split = value.split or split
        labels: Labels | None = above.get("labels")
        # Rows that recent were not yet final at the time of the first evaluated row.
        delay = labels.outcome_delay if labels and split.by_time else None
        return replace(value, metric=metric, split=split, gap=value.gap or delay)
    if isinstance(value, ReleaseSpec) and not value.guardrails:
        left_out = set() if value.has_mirror else PAIRED
        if above.get("outcomes") is None:
            left_out |= {Guard.OUTCOME}
        margins = DEFAULT_GUARDRAILS.items()
        return replace(value, guardrails={k: v for k, v in margins if k not in left_out})
    if name == "candidates" and not value:
        return tuple(map(CandidateSpec, estimators(task)[:_DEFAULT_CANDIDATES]))
    return value


def _time(time: EventTime | None, above: Above) -> Problems:
    if time and _is_same(time, above.get("join_key")):
        yield ("column",), f"{time.name!r} is the join key: name another column"


def _ttl(ttl: timedelta, above: Above) -> Problems:
    if above.get("labels") is not None and ttl != DEFAULT_TTL:
        yield (), "belongs to the feature tables: write it there"
    if above.get("event_time", ttl) is None and ttl != DEFAULT_TTL:
        yield (), "needs `event_timestamp`: without times no value gets old"


def _features(features: Sequence[FeatureSpec], above: Above) -> Problems:
    labels: Labels | None = above.get("labels")
    # The columns of feature tables are in other sources; those of `request` are judged there.
    own = [feature for feature in features if labels is None or feature.table]
    yield from _columns(own, _taken_names(above), {} if labels else _headers(above))


def _request(request: Sequence[FeatureSpec], above: Above) -> Problems:
    if request and above.get("labels") is None:
        yield (), "needs `labels`: a model of one table takes whole rows from its callers"
    stored = [feature for feature in above.get("features", ()) if feature.table]
    taken = {feature.name.casefold(): f"a column of {feature.table}" for feature in stored}
    yield from _columns(request, taken | _taken_names(above), _headers(above))


def _columns(
    features: Sequence[FeatureSpec], taken: Mapping[str, str], headers: Mapping[str, str]
) -> Problems:
    seen: dict[str, FeatureSpec] = {}
    for index, feature in enumerate(features):
        name = feature.name.casefold()
        what = taken.get(name) or headers.get(feature.source_column or feature.name)
        if what:
            message = f"{feature.name!r} is {what}: the model may not read it; remove it"
            yield (index, "name"), message
        elif name in seen and seen[name].table != feature.table:
            message = (
                f"{feature.name!r} is a column of {seen[name].table} as well: give it another name "
                f"in {feature.table}, and this one under `from` there"
            )
            yield (index, "name"), message
        elif name in seen:
            yield (index, "name"), f"{feature.name!r} is listed twice, in any case: remove one"
        seen.setdefault(name, feature)


def _other_columns(above: Above) -> list[tuple[_Named, str]]:
    """Return the columns that are not features, with their roles."""
    labels: Labels | None = above.get("labels")
    keys = labels.entities if labels else [above.get("join_key")]
    columns = [(key, "a join key" if labels else "the join key") for key in keys]
    columns += [
        (above.get("target"), "the target"),
        (above.get("event_time"), "the event timestamp"),
        (above.get("weight"), "the weight"),
    ]
    return [(column, what) for column, what in columns if column]


def _taken_names(above: Above) -> dict[str, str]:
    # DuckDB, which Feast uses for joins, ignores case; a source does not.
    return {_column_name(column).casefold(): what for column, what in _other_columns(above)}


def _headers(above: Above) -> dict[str, str]:
    return {
        column.source_column or _column_name(column): what
        for column, what in _other_columns(above)
        if not (isinstance(column, JoinKey) and column.from_row_number)
    }


def _column_name(column: _Named) -> str:
    return column.column if isinstance(column, LabelKey) else column.name


def _weight(weight: WeightColumn | None, above: Above) -> Problems:
    for name, what in _taken_names(above).items():
        if weight and weight.name.casefold() == name:
            yield ("column",), f"{weight.name!r} is {what}: name another column"


def _class_weight(weight: str | ClassWeights | None, above: Above) -> Problems:
    task, target = above.get("task"), above.get("target")
    if weight is None or task is None or target is None:
        return
    if task is Task.REGRESSION:
        yield (), "a regression has no classes: remove it (`weight` names a column of weights)"
    elif not isinstance(weight, str):
        known, kind = target.class_names or target.classes, _CLASSES[target.answer_dtype]
        for label in weight:
            if type(label) is not kind[0]:
                yield (str(label),), f"{as_yaml(label)} is not {kind[1]}, as the labels are"
            elif known and label not in known:
                listed = ", ".join(map(as_yaml, known))
                yield (str(label),), f"{as_yaml(label)} is not a class; they are {listed}"


def _target(target: Target, above: Above) -> Problems:
    for other, what in (("join_key", "the join key"), ("event_time", "the event timestamp")):
        if _is_same(target, above.get(other)):
            yield ("column",), f"{target.name!r} is {what}: name another column"
    task = above.get("task")
    if task is Task.REGRESSION:
        yield from _number(target)
    elif task and target.dtype is DType.FP64:
        advice = "change the type, or the task to regression"
        yield ("type",), f"a {task} target is text, integer or boolean: {advice}"
    elif task:
        yield from _classes(target.classes, *_CLASSES[target.dtype])
        yield from _count(target, task)


def _number(target: Target) -> Problems:
    if target.dtype is not DType.FP64:
        message = (
            f"a regression predicts a number, not {_CLASSES[target.dtype][1]}: remove the type "
            "(whole numbers are read as well), or change the task"
        )
        yield ("type",), message
    for name in ("classes", "class_names"):
        if getattr(target, name):
            yield (name,), "a regression has no classes: remove them"


def _classes(classes: Sequence[Label], kind: type, type_name: str) -> Problems:
    for index, label in enumerate(classes):
        path = ("classes", index)
        if type(label) is not kind:
            hint = "; put it in quotes (YAML reads yes and no as true and false)"
            problem = f"{as_yaml(label)} is not {type_name}, as the other labels are"
            yield path, problem + (hint if kind is str else "")
        elif label == "":
            yield path, "empty text means that the label is missing: remove it"
        elif type(label) is int and not -(2**63) <= label < 2**63:
            yield path, f"{label} does not fit into 64 bits"
        elif label in classes[:index]:
            yield path, f"{as_yaml(label)} is listed twice: remove one"


def _count(target: Target, task: Task) -> Problems:
    count, names = len(target.classes), target.class_names
    if task is Task.BINARY and count not in {0, 2}:
        advice = "write task: multiclass, or list two" if count > 2 else "list both"
        yield ("classes",), f"a binary target has two classes, and here are {count}: {advice}"
    if task is Task.MULTICLASS and count in {1, 2}:
        advice = "list all, or write task: binary"
        yield ("classes",), f"{count} classes are not multiclass: {advice}"
    if names and len(names) != count:
        advice = "list the classes, whose order the names follow" if not count else "match them"
        yield ("class_names",), f"{len(names)} names for {count} classes: {advice}"
    for index, name in enumerate(names):
        if name in names[:index]:
            yield ("class_names", index), f"{name!r} is given to two classes"
        elif not name:
            yield ("class_names", index), "empty text means that the label is missing: name it"


def _outcomes(outcomes: Outcomes | None, above: Above) -> Problems:
    labels: Labels | None = above.get("labels")
    key: JoinKey | None = above.get("join_key")
    if outcomes is None or outcomes.source is None or key is None:
        return
    if labels is None and key.from_row_number:
        message = (
            "has no column for the join key, which numbers the rows of another source: let clients "
            "send the outcomes, or give the model a key with a `column`"
        )
        yield ("source",), message
    wanted = {entity.column for entity in labels.entities} if labels else {key.name}
    columns = [entity.column for entity in outcomes.entities]
    for index, name in enumerate(columns):
        if name not in wanted or name in columns[:index]:
            what = "is listed twice" if name in wanted else "is not a key of the model"
            yield ("entities", index), f"{as_yaml(name)} {what}: remove it"
    if columns and (lost := sorted(wanted.difference(columns))):
        yield ("entities",), f"lacks {', '.join(lost)}: a prediction is of all keys of the model"


def _candidates(candidates: Sequence[CandidateSpec], above: Above) -> Problems:
    task, class_weight = above.get("task"), above.get("class_weight")
    known = estimators(task) if task else ()
    weighted = above.get("weight") or class_weight
    for index, candidate in enumerate(candidates):
        if weighted and candidate.estimator in UNWEIGHTED:
            message = f"{candidate.estimator} takes no weights: remove it, or the weights"
            yield (index, "estimator"), message
        if class_weight and "class_weight" in candidate.grid:
            message = "is given for all candidates above: remove one of the two"
            yield (index, "grid", "class_weight"), message
        if known and candidate.estimator is not None and candidate.estimator not in known:
            message = (
                f"{as_yaml(candidate.estimator)} is not an estimator for {task}; known are "
                f"{', '.join(known)}; for one of your own give `function`"
            )
            yield (index, "estimator"), message
        if candidate in candidates[:index]:
            yield (index,), "is listed twice: remove one"
        if candidate.ranges and above.get("search", candidate) is None:
            yield (index, "ranges"), "are for a search: add `search: {trials: 50}`, or give a grid"


def _evaluation(evaluation: Evaluation, above: Above) -> Problems:
    task, name = above.get("task"), evaluation.metric
    if task and name not in metrics(task):
        wrong = f"does not measure a {task} model" if name in METRICS else "is not a metric"
        yield ("metric",), f"{as_yaml(name)} {wrong}; write one of {', '.join(metrics(task))}"
    if evaluation.quantile is not None and name != PINBALL:
        yield ("quantile",), "belongs to `metric: pinball`: remove it, or choose that metric"
    split = evaluation.split
    if split and split.by_time and above.get("event_time", task) is None:
        advice = "name the column with the time, or split by entity"
        yield ("split",), f"{split} needs `event_timestamp`: {advice}"
    if split and not split.by_time and evaluation.gap is not None:
        yield ("gap",), "belongs to a split by time: remove it, or write entity_and_time"
    yield from _group(evaluation, above)


def _group(evaluation: Evaluation, above: Above) -> Problems:
    name, split, features = evaluation.group, evaluation.split, above.get("features")
    if name is None or features is None:
        return
    if split and not split.by_entity:
        yield ("group",), f"belongs to a split by entity, and this is one by {split}: remove it"
    known = {feature.name: feature for feature in (*features, *above.get("request", ()))}
    column = known.get(name)
    if column is None:
        yield ("group",), f"{as_yaml(name)} is not a feature of the model"
    # The columns of feature tables are only known once the tables are.
    elif not column.table and not _is_group(column):
        yield ("group",), f"{as_yaml(name)} is not text, or an integer or boolean without nulls"


def _is_group(column: FeatureSpec) -> bool:
    return column.dtype is DType.BYTES or (
        column.dtype in {DType.INT64, DType.BOOL} and not column.nullable
    )


def _calibration(calibration: Calibration | None, above: Above) -> Problems:
    if calibration is not None and above.get("task") is Task.REGRESSION:
        yield (), "a regression has no probabilities: remove it"


def _threshold(threshold: Threshold | None, above: Above) -> Problems:
    task = above.get("task")
    if threshold is not None and task not in {None, Task.BINARY}:
        yield (), f"a threshold is of two classes, and the task is {task}: remove it"


def _slices(slices: Sequence[str], above: Above) -> Problems:
    features = above.get("features")
    if features is None:
        return
    known = {feature.name: feature for feature in (*features, *above.get("request", ()))}
    for index, name in enumerate(slices):
        column = known.get(name)
        if column is None:
            yield ("slices", index), f"{as_yaml(name)} is not a feature of the model"
        elif not column.table and column.dtype in {DType.FP32, DType.FP64}:
            yield ("slices", index), f"{as_yaml(name)} is a number with too many values for slices"
        elif name in slices[:index]:
            yield ("slices", index), f"{as_yaml(name)} is listed twice: remove one"


def _gates(gates: Gates, above: Above) -> Problems:
    yield from _slices(gates.slices, above)
    evaluation: Evaluation | None = above.get("evaluation")
    if evaluation is None or evaluation.metric not in METRICS:
        return
    floor, (_, least, most) = gates.metric_floor, METRICS[evaluation.metric]
    if (least is not None and floor < least) or (most is not None and floor > most):
        bounds = " to ".join("any" if bound is None else f"{bound}" for bound in (least, most))
        message = f"{floor:g} is not a value of {evaluation.metric}, which goes from {bounds}"
        yield ("metric_floor",), f"{message}: the gate would decide nothing"


def _release(release: ReleaseSpec | None, above: Above) -> Problems:
    if release is None:
        return
    if Guard.OUTCOME in release.guardrails and above.get("outcomes") is None:
        advice = "a source, or `outcome_delay` where clients send them"
        yield ("guardrails", "outcome"), f"needs `outcomes`: {advice}"
    for index, guard in enumerate(release.unproven):
        if guard not in release.guardrails:
            yield ("unproven", index), f"{guard.value} is not among the guardrails: remove it"


def _is_same(one: EventTime | Target, other: JoinKey | EventTime | None) -> bool:
    return other is not None and one.name.casefold() == other.name.casefold()


RULES: Final[Mapping[str, Callable[[Any, Above], Problems]]] = {
    "event_time": _time,
    "ttl": _ttl,
    "target": _target,
    "outcomes": _outcomes,
    "weight": _weight,
    "class_weight": _class_weight,
    "features": _features,
    "request": _request,
    "candidates": _candidates,
    "evaluation": _evaluation,
    "calibration": _calibration,
    "threshold": _threshold,
    "gates": _gates,
    "release": _release,
}
