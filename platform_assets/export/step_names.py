"""Find the step of a pipeline that has no counterpart in ONNX, by its author's names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from platform_assets.export.boosting_converters import register
from platform_assets.export.inspection import ExportError
from platform_assets.export.steps import has_converter

ADDED_STEP: Final = "double"
"""Step that the export appends to each part of a column transformer where types differ."""
NamedStep = tuple[str, Any]
"""The path of a step, as `prepare > numbers > scale`, and the step."""


def require_converters(pipeline: Any) -> None:
    """Refuse a pipeline, fitted or not, with a step for which there is no converter.

    Raises:
        ExportError: the message names the step.
    """
    register()
    final = list(flatten_steps(pipeline))[-1][1]
    for path, step in _leaves(pipeline, ""):
        # The last one is converted as a base class of its own.
        if not has_converter(step, inherited=step is final):
            raise ExportError(f"step {path} ({_kind(step)}) has no ONNX converter")


def locate_failure(
    named: Sequence[NamedStep], converts: Callable[[Sequence[Any]], bool], error: ExportError
) -> ExportError:
    """Return an error that names the first step that does not convert.

    `named` are the steps of a flat pipeline; `converts` says whether the given leading steps do.
    """
    steps = [step for _, step in named]
    for count, (path, step) in enumerate(named, start=1):
        if count == len(steps) or not converts(steps[:count]):
            where, culprit = _branch(path, step, converts)
            leaves = _leaves(culprit, "")
            kinds = dict.fromkeys(_kind(leaf) for name, leaf in leaves if name != ADDED_STEP)
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            return ExportError(f"step {where} ({', '.join(kinds)}) cannot be converted: {reason}")
    return error


def _branch(path: str, step: Any, converts: Callable[[Sequence[Any]], bool]) -> NamedStep:
    """Return the first part of a column transformer that does not convert, or the step itself."""
    from sklearn.compose import ColumnTransformer

    if isinstance(step, ColumnTransformer):
        for name, part, columns in step.transformers_:
            alone = copy.copy(step)
            alone.transformers_ = [(name, part, columns)]
            if not converts([alone]):
                return f"{path} > {name}", part
    return path, step


def flatten_steps(pipeline: Any, above: str = "") -> Iterator[NamedStep]:
    """Yield the steps of a pipeline and of nested pipelines, in order."""
    from sklearn.pipeline import Pipeline

    for name, step in pipeline.steps:
        path = f"{above}{name}"
        if isinstance(step, Pipeline):
            yield from flatten_steps(step, f"{path} > ")
        else:
            yield path, step


def _leaves(step: Any, path: str) -> Iterator[NamedStep]:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    match step:
        case None | "passthrough" | "drop":
            return
        case Pipeline(steps=parts) | FeatureUnion(transformer_list=parts):
            inside = list(parts)
        case ColumnTransformer():
            inside = [part[:2] for part in getattr(step, "transformers_", step.transformers)]
        case _:
            yield path, step
            return
    for name, part in inside:
        yield from _leaves(part, f"{path} > {name}" if path else name)


def _kind(step: Any) -> str:
    return type(step).__name__
