"""What may not be said of a model, and what may not be said together. Nothing here does I/O."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import dagster as dg

from platform_assets.components.column_rules import column_faults
from platform_assets.components.durations import duration
from platform_assets.components.fields import CandidateFields, ModelFields
from platform_assets.components.problems import Fault, FieldPath
from platform_assets.components.typing_faults import shown
from platform_assets.components.vocabulary import (
    DATASETS,
    DEFAULT_METRIC,
    METRIC_BOUNDS,
    estimators,
)
from platform_assets.model_spec import ASSETS, Task
from platform_assets.resources.source import SOURCE_PREFIX, hidden_variables
from platform_assets.training.metrics import valid_metrics

# Narrower than the contract's: Dagster's groups, pools and jobs have no hyphens.
_MODEL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}", re.ASCII)
_FUNCTION: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_DATASET: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_TAG_KEY: Final = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}", re.ASCII)
_TAG_VALUE: Final = re.compile(r"[A-Za-z0-9_.-]{0,63}", re.ASCII)
_OWNER: Final = re.compile(r"team:.+|[^@\s]+@[^@\s]+\.[^@\s.]+")
_PASSWORD: Final = re.compile(
    r"(?:://[^/@:]*:(?=[^@]+@)|(?:password|passwd|pwd)(?:=|%3D))(?P<password>[^@&;]+)",
    re.IGNORECASE,
)
_SHORTEST_FRESHNESS_S: Final = 60
_CPU: Final = re.compile(r"(\d{1,4}(\.\d{1,3})?|\d{1,7}m)", re.ASCII)
_MEMORY: Final = re.compile(r"\d{1,7}(\.\d{1,3})?[MGT]i?", re.ASCII)


def faults(fields: ModelFields, model_name: str) -> list[Fault]:
    """Return all that is wrong; `model_name` is the file's or, without one, its folder's."""
    return [
        *_model_name(fields, model_name),
        *_ownership(fields),
        *_templates(fields),
        *_source(fields),
        *column_faults(fields),
        *_candidates(fields),
        *_evaluation(fields),
        *_serving(fields),
        *_automation(fields),
        *_kubernetes(fields),
    ]


def _model_name(fields: ModelFields, name: str) -> Iterator[Fault]:
    if _MODEL_NAME.fullmatch(name):
        return
    foreign = next((letter for letter in name if not letter.isascii()), None)
    detail = f"{foreign!r} is {unicodedata.name(foreign, 'no ASCII letter')}; " if foreign else ""
    own = fields.model_name is not None
    advice = "" if own else " (this is the folder's name: say another `model_name`)"
    yield Fault(
        ("model_name",),
        f"{shown(name)}: {detail}use an ASCII letter, then up to 99 ASCII letters, digits or "
        f"underscores{advice}",
    )


def _ownership(fields: ModelFields) -> Iterator[Fault]:
    for index, owner in enumerate(fields.owners):
        if not _OWNER.fullmatch(owner):
            yield Fault(("owners", index), f"{shown(owner)}: write an email address or team:<name>")
    for key, value in fields.tags.items():
        if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
            yield Fault(
                ("tags", key),
                f"{shown(key)}: {shown(value)}: keys and values of tags have up to 63 letters, "
                "digits, '_', '-' and '.'",
            )


def _templates(fields: ModelFields) -> Iterator[Fault]:
    source = fields.source
    texts: dict[FieldPath, str | None] = {
        ("source", "file"): source.file,
        ("source", "dataset"): source.dataset,
    }
    if source.sql is not None:
        texts["source", "sql", "url"] = source.sql.url
    for path, text in texts.items():
        if text is not None and "{{" in text:
            yield Fault(
                path,
                "templates are not filled in: write ${SOURCE_NAME} for an environment variable, "
                "which is read when the source is",
            )
        for name in hidden_variables(text or ""):
            yield Fault(path, f"{name}: a source may see variables named {SOURCE_PREFIX}... only")


def _source(fields: ModelFields) -> Iterator[Fault]:
    source = fields.source
    given = [name for name in ("file", "sql", "dataset") if getattr(source, name) is not None]
    if len(given) != 1:
        found = f"has {' and '.join(given)}" if given else "is empty"
        yield Fault(("source",), f"{found}: give exactly one of file, sql and dataset")
        return
    if source.file is not None:
        if not source.file.strip() or not source.file.isprintable():
            yield Fault(("source", "file"), f"{shown(source.file)} is no path")
        elif "://" in source.file:
            yield Fault(
                ("source", "file"),
                f"{shown(source.file)} is an address: files are read from this machine only, so "
                "mount the storage, or use sql",
            )
        elif not _has_home(source.file):
            yield Fault(
                ("source", "file"),
                f"{shown(source.file)}: this machine knows no home of that user: write the whole "
                "path",
            )
    if source.separator is not None and (source.file is None or source.separator in '"\r\n'):
        yield Fault(
            ("source", "separator"),
            "stands between the values of a file, and is neither a quotation mark nor a line's end",
        )
    if source.dataset is not None:
        package, _, name = source.dataset.partition(".")
        if package not in DATASETS or not _DATASET.fullmatch(name):
            yield Fault(
                ("source", "dataset"),
                f"{shown(source.dataset)}: write sklearn.<name> or vega.<name>, as sklearn.wine",
            )
    if source.sql is not None:
        yield from _sql(source.sql.url, source.sql.query)


def _has_home(path: str) -> bool:
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def _sql(url: str, query: str) -> Iterator[Fault]:
    if "://" not in url and not url.startswith("${"):
        yield Fault(
            ("source", "sql", "url"), "write dialect://..., or ${SOURCE_NAME} for all of it"
        )
    if any(not found["password"].startswith("${") for found in _PASSWORD.finditer(url)):
        yield Fault(
            ("source", "sql", "url"),
            "holds a password for everybody to read: put it into an environment variable and "
            "write ${SOURCE_NAME} in its place",
        )
    if not query.strip():
        yield Fault(("source", "sql", "query"), "is empty: write the SELECT of the rows")


def _candidates(fields: ModelFields) -> Iterator[Fault]:
    for index, candidate in enumerate(fields.candidates or ()):
        yield from _candidate(("candidates", index), candidate, Task(fields.task))
        if candidate in (fields.candidates or ())[:index]:
            yield Fault(("candidates", index), "is listed twice: remove one")


def _candidate(path: tuple[object, ...], candidate: CandidateFields, task: Task) -> Iterator[Fault]:
    name, function = candidate.estimator, candidate.function
    if (name is None) == (function is None):
        yield Fault(path, "needs exactly one of `estimator` and `function`")
        return
    if name is not None and name not in estimators(task):
        yield Fault(
            (*path, "estimator"),
            f"{shown(name)} is no estimator for {task}; known are {', '.join(estimators(task))}; "
            "for one of your own give `function`",
        )
    if function is not None and not _FUNCTION.fullmatch(function):
        yield Fault((*path, "function"), f"{shown(function)}: write package.module:name")
    for parameter, values in candidate.grid.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or any(isinstance(value, (list, dict)) for value in listed):
            yield Fault(
                (*path, "grid", parameter),
                "needs a list of numbers, texts, booleans or nulls to try",
            )


def _evaluation(fields: ModelFields) -> Iterator[Fault]:
    task, floor = Task(fields.task), fields.gates.metric_floor
    name = fields.evaluation.metric or DEFAULT_METRIC[task]
    if name not in valid_metrics(task):
        wrong = f"does not measure a {task} model" if name in METRIC_BOUNDS else "is no metric"
        yield Fault(
            ("evaluation", "metric"),
            f"{shown(name)} {wrong}; write one of {', '.join(valid_metrics(task))}",
        )
    else:
        least, most = METRIC_BOUNDS[name]
        if (least is not None and floor < least) or (most is not None and floor > most):
            low = "any" if least is None else f"{least:g}"
            yield Fault(
                ("gates", "metric_floor"),
                f"{floor:g} is no value of {name}, which goes from {low} to "
                f"{'any' if most is None else f'{most:g}'}: the gate would decide nothing",
            )
    if fields.evaluation.split == "time" and fields.event_timestamp is None:
        yield Fault(
            ("evaluation", "split"),
            "time needs `event_timestamp`: name the column with the time, or split by entity",
        )


def _serving(fields: ModelFields) -> Iterator[Fault]:
    serving = fields.serving
    if serving.keep_versions < serving.retention:
        yield Fault(
            ("serving", "keep_versions"),
            f"{serving.keep_versions} directories cannot hold {serving.retention} READY versions: "
            "keep at least as many as `retention`",
        )


def _automation(fields: ModelFields) -> Iterator[Fault]:
    automation = fields.automation
    for name in ("schedule", "drift_schedule"):
        cron = getattr(automation, name)
        if cron is not None and not _is_cron(cron):
            yield Fault(
                ("automation", name),
                f"{shown(cron)} is no cron string that ever fires: write five fields, minute "
                "first, as 0 3 * * *",
            )
    if automation.on_drift and automation.drift_schedule is None:
        yield Fault(
            ("automation", "on_drift"), "needs `drift_schedule`: nothing else measures drift"
        )
    freshness = automation.freshness
    if freshness and duration(freshness).total_seconds() < _SHORTEST_FRESHNESS_S:
        yield Fault(("automation", "freshness"), f"{freshness} is too short: a minute is the least")


def _kubernetes(fields: ModelFields) -> Iterator[Fault]:
    for asset, asked in fields.kubernetes.resources.items():
        path = ("kubernetes", "resources", asset)
        if asset not in ASSETS:
            near = difflib.get_close_matches(asset, ASSETS, n=1)
            guess = f" Did you mean `{near[0]}`?" if near else ""
            yield Fault(path, f"is no asset of a model.{guess} They are {', '.join(ASSETS)}")
        if asked.cpu is not None and not _is_quantity(_CPU, asked.cpu):
            yield Fault(
                (*path, "cpu"),
                f"{shown(asked.cpu)} is no number of cores: write 2, 0.5 or 500m (thousandths)",
            )
        if asked.memory is not None and not _is_quantity(_MEMORY, asked.memory):
            yield Fault(
                (*path, "memory"),
                f"{shown(asked.memory)} is no size of memory: write a number and its unit, as "
                "512Mi or 4Gi",
            )


def _is_quantity(shape: re.Pattern[str], text: str) -> bool:
    # Nothing is no request; the unit of less than a megabyte would be a slip of the pen.
    return bool(shape.fullmatch(text)) and any(digit in text for digit in "123456789")


def _is_cron(text: str) -> bool:
    try:
        dg.ScheduleDefinition(name="cron", job_name="cron", cron_schedule=text)
    except dg.DagsterInvalidDefinitionError:
        return False
    return True
