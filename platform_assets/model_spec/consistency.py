"""What may not be said together: each rule yields where, below the field it is about, and why.

A field that is not valid itself is None here: what depends on it is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from platform_assets.model_spec.columns import EventTime, FeatureSpec, JoinKey, Label, Target
from platform_assets.model_spec.fields import shown
from platform_assets.model_spec.training import (
    METRICS,
    CandidateSpec,
    Evaluation,
    Gates,
    Split,
    Task,
    estimators,
    metrics,
)
from serving_gateway.contract import DType

Problems = Iterator[tuple[tuple[int | str, ...], str]]

_CLASSES = {
    DType.BYTES: (str, "text"),
    DType.INT64: (int, "integer"),
    DType.BOOL: (bool, "boolean"),
}
"""Type of a target -> that of a class label as YAML reads it, and its name in a model file."""


def is_same(one: JoinKey | EventTime | Target, other: JoinKey | EventTime | None) -> bool:
    """Whether two columns have one name; Feast joins by DuckDB, which ignores case."""
    return other is not None and one.name.casefold() == other.name.casefold()


def feature_problems(
    features: Sequence[FeatureSpec],
    key: JoinKey | None,
    time: EventTime | None,
    target: Target | None,
) -> Problems:
    """Yield features that are another column of the model, or are listed twice."""
    columns = [(key, "the join key"), (target, "the target"), (time, "the event timestamp")]
    taken = {one.name.casefold(): what for one, what in columns if one}
    headers = {
        one.source_column or one.name: what
        for one, what in columns
        if one and not (isinstance(one, JoinKey) and one.from_row_number)
    }
    seen: set[str] = set()
    for index, feature in enumerate(features):
        name = feature.name.casefold()
        what = taken.get(name) or headers.get(feature.source_column or feature.name)
        if what:
            message = f"{feature.name!r} is {what}: the model may not read it; remove it"
            yield (index, "name"), message
        elif name in seen:
            yield (index, "name"), f"{feature.name!r} is listed twice, in any case: remove one"
        seen.add(name)


def target_problems(
    target: Target, task: Task, key: JoinKey | None, time: EventTime | None
) -> Problems:
    """Yield a target that is another column, or whose type and classes do not fit the task."""
    for other, what in ((key, "the join key"), (time, "the event timestamp")):
        if is_same(target, other):
            yield ("column",), f"{target.name!r} is {what}: name another column"
    if task is Task.REGRESSION:
        yield from _regression_problems(target)
    elif target.dtype is DType.FP64:
        advice = "change the type, or the task to regression"
        yield ("type",), f"a {task} target is text, integer or boolean: {advice}"
    else:
        yield from _class_problems(target.classes, *_CLASSES[target.dtype])
        yield from _count_problems(target, task)


def _regression_problems(target: Target) -> Problems:
    if target.dtype is not DType.FP64:
        message = (
            f"a regression predicts a number, not {_CLASSES[target.dtype][1]}: remove the type "
            "(whole numbers are read as well), or change the task"
        )
        yield ("type",), message
    for name in ("classes", "class_names"):
        if getattr(target, name):
            yield (name,), "a regression has no classes: remove them"


def _class_problems(classes: Sequence[Label], kind: type, word: str) -> Problems:
    for index, label in enumerate(classes):
        path = ("classes", index)
        if type(label) is not kind:
            hint = "; put it in quotes (YAML reads yes and no as true and false)"
            found = f"{shown(label)} is not {word}, as the other labels are"
            yield path, found + (hint if kind is str else "")
        elif label == "":
            yield path, "empty text means that the label is missing: remove it"
        elif type(label) is int and not -(2**63) <= label < 2**63:
            yield path, f"{label} does not fit into 64 bits"
        elif label in classes[:index]:
            yield path, f"{shown(label)} is listed twice: remove one"


def _count_problems(target: Target, task: Task) -> Problems:
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


def candidate_problems(candidates: Sequence[CandidateSpec], task: Task | None) -> Problems:
    """Yield estimators that do not do the task, and candidates that are listed twice."""
    for index, one in enumerate(candidates):
        if task and one.estimator is not None and one.estimator not in estimators(task):
            known = ", ".join(estimators(task))
            message = (
                f"{shown(one.estimator)} is not an estimator for {task}; known are {known}; for "
                "one of your own give `function`"
            )
            yield (index, "estimator"), message
        if one in candidates[:index]:
            yield (index,), "is listed twice: remove one"


def evaluation_problems(evaluation: Evaluation, task: Task | None, *, timed: bool) -> Problems:
    """Yield a metric that does not measure the task, and a split by times that are not known."""
    name = evaluation.metric
    if task and name not in metrics(task):
        wrong = f"does not measure a {task} model" if name in METRICS else "is not a metric"
        yield ("metric",), f"{shown(name)} {wrong}; write one of {', '.join(metrics(task))}"
    if evaluation.split is Split.TIME and not timed:
        advice = "name the column with the time, or split by entity"
        yield ("split",), f"time needs `event_timestamp`: {advice}"


def gate_problems(gates: Gates, metric: str) -> Problems:
    """Yield a floor that every value of the metric passes, or none."""
    floor, bounds = gates.metric_floor, METRICS[metric]
    low, high = bounds.least, bounds.most
    if (low is not None and floor < low) or (high is not None and floor > high):
        message = (
            f"{floor:g} is not a value of {metric}, which goes from "
            f"{'any' if low is None else low} to {'any' if high is None else high}: the gate "
            "would decide nothing"
        )
        yield ("metric_floor",), message
