"""From the fields of a model file to the record that the slices take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from platform_assets.components.column_rules import target_type
from platform_assets.components.durations import duration
from platform_assets.components.fields import CandidateFields, ModelFields, SourceFields
from platform_assets.components.vocabulary import (
    DEFAULT_CLASSIFIERS,
    DEFAULT_METRIC,
    DEFAULT_REGRESSORS,
    FEATURE_TYPES,
    TARGET_TYPES,
)
from platform_assets.model_spec import (
    AutomationSpec,
    CandidateSpec,
    ComputeResources,
    DatasetSource,
    Evaluation,
    EventTime,
    FeatureSpec,
    FileSource,
    Gates,
    JoinKey,
    ModelSpec,
    ServingSpec,
    Source,
    Split,
    SqlSource,
    Target,
    Task,
    WhenInconclusive,
)


def model_spec(fields: ModelFields, *, name: str, folder: Path, code_version: str) -> ModelSpec:
    """Return the model that `fields` describes.

    `fields` has passed `rules.faults`; relative paths of files count from `folder`.
    """
    task, time = Task(fields.task), fields.event_timestamp
    optional: dict[str, Any] = {} if fields.ttl is None else {"ttl": duration(fields.ttl)}
    return ModelSpec(
        model_name=name,
        task=task,
        source=_source(fields.source, folder),
        features=tuple(
            FeatureSpec(
                feature.name,
                FEATURE_TYPES[feature.type],
                feature.nullable,
                feature.minimum,
                feature.maximum,
                feature.from_ or "",
            )
            for feature in fields.features
        ),
        target=_target(fields, task),
        candidates=_candidates(fields.candidates, task),
        gates=Gates(
            **fields.gates.model_dump(exclude={"when_inconclusive"}),
            when_inconclusive=WhenInconclusive(fields.gates.when_inconclusive),
        ),
        join_key=_join_key(fields),
        event_time=EventTime(time.column, time.timezone, time.from_ or "") if time else None,
        evaluation=_evaluation(fields, task),
        serving=ServingSpec(**fields.serving.model_dump()),
        automation=_automation(fields),
        compute={
            asset: ComputeResources(asked.cpu, asked.memory)
            for asset, asked in fields.kubernetes.resources.items()
        },
        description=fields.description,
        owners=tuple(fields.owners),
        tags=dict(fields.tags),
        code_version=code_version,
        **optional,
    )


def _source(source: SourceFields, folder: Path) -> Source:
    if source.sql is not None:
        return SqlSource(source.sql.url, source.sql.query, duration(source.sql.timeout))
    if source.dataset is not None:
        return DatasetSource(source.dataset)
    file = source.file or ""
    if file.startswith("${"):  # a variable may hold an absolute path
        return FileSource(file, source.separator)
    path = Path(file).expanduser()
    while path.parts[:1] == ("..",):
        # Above a folder that is a link is what is above its target.
        folder, path = folder.resolve().parent, Path(*path.parts[1:])
    return FileSource(str(folder / path), source.separator)


def _join_key(fields: ModelFields) -> JoinKey:
    key = fields.join_key
    if key.column is None:
        return JoinKey(key.row_number or "", from_row_number=True)
    return JoinKey(key.column, FEATURE_TYPES[key.type], source_column=key.from_ or "")


def _target(fields: ModelFields, task: Task) -> Target:
    target = fields.target
    return Target(
        target.column,
        TARGET_TYPES[target_type(target, task)],
        tuple(target.classes),
        tuple(target.class_names),
        target.drop_missing,
        target.from_ or "",
    )


def _candidates(candidates: list[CandidateFields] | None, task: Task) -> tuple[CandidateSpec, ...]:
    if candidates is None:
        regression = task is Task.REGRESSION
        names = DEFAULT_REGRESSORS if regression else DEFAULT_CLASSIFIERS
        return tuple(CandidateSpec(name) for name in names)
    return tuple(
        CandidateSpec(
            candidate.estimator,
            candidate.function,
            {
                parameter: tuple(values) if isinstance(values, list) else (values,)
                for parameter, values in candidate.grid.items()
            },
        )
        for candidate in candidates
    )


def _evaluation(fields: ModelFields, task: Task) -> Evaluation:
    chosen = fields.evaluation
    default = Split.ENTITY if fields.event_timestamp is None else Split.TIME
    return Evaluation(
        metric=chosen.metric or DEFAULT_METRIC[task],
        folds=chosen.folds,
        fraction=chosen.fraction,
        split=Split(chosen.split) if chosen.split else default,
        seed=chosen.seed,
        threads=chosen.threads,
    )


def _automation(fields: ModelFields) -> AutomationSpec:
    values = fields.automation.model_dump()
    freshness = fields.automation.freshness
    return AutomationSpec(**values | {"freshness": duration(freshness) if freshness else None})
