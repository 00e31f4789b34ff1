"""Render a draft as a model file, with each reason on its line, without I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from platform_assets.components.scaffold import draft as parts
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.profile import ModelRequest
from platform_assets.model_spec import Evaluation, FeatureSpec, JoinKey, Target
from platform_assets.model_spec.columns import WORDS
from platform_assets.model_spec.feature_source import DEFAULT_TTL
from serving_gateway.contract import DType

TYPE: Final = "platform_assets.components.TabularModel"


def render(draft: Draft, request: ModelRequest, file: str) -> str:
    """Return the text of the model file; `file` is the table's path as written in it."""
    return "\n".join(_lines(draft, request, file)) + "\n"


def _lines(draft: Draft, request: ModelRequest, file: str) -> Iterator[str]:
    spec, why = draft.spec, draft.reasons
    yield f"# Made from {_comment(request.title)}. Each line says why it is as it is: change what"
    yield "# you know better."
    yield f"type: {TYPE}"
    yield ""
    yield "attributes:"
    yield f"  model_name: {_scalar(spec.model_name)}"
    yield f"  source: {_flow({'file': file, 'separator': spec.source.separator})}"
    yield _line("  ", parts.KEY, _flow(_key(spec.join_key)), why[parts.KEY])
    if (time := spec.event_time) is not None:
        fields = {"column": time.name, "timezone": time.timezone, "from": time.source_column}
        yield _line("  ", parts.TIME, _flow(fields), why[parts.TIME])
    if spec.ttl != DEFAULT_TTL:
        yield _line("  ", parts.TTL, f"{spec.ttl.days}d", why[parts.TTL])
    yield _line("  ", parts.TARGET, _flow(_target(spec.target)), why[parts.TARGET])
    yield _line("  ", parts.TASK, spec.task.value, why[parts.TASK])
    yield "  features:"
    for feature in spec.features:
        yield _line(
            "    ", _scalar(feature.name), _feature(feature), draft.feature_reasons[feature.name]
        )
    if draft.left_out:
        yield "    # Left out:"
    for header, reason in draft.left_out.items():
        yield f"    # {_comment(_scalar(header))}: {_comment(reason)}"
    if parts.CANDIDATES in why:
        names = ", ".join(str(candidate.estimator) for candidate in spec.candidates)
        yield _line("  ", parts.CANDIDATES, f"[{names}]", why[parts.CANDIDATES])
    yield _line(
        "  ", parts.EVALUATION, _flow(_evaluation(spec.evaluation)), why.get(parts.EVALUATION, "")
    )
    yield "  gates:"
    yield _line("    ", parts.FLOOR, f"{spec.gates.metric_floor}", why[parts.FLOOR])


def _key(key: JoinKey) -> dict[str, Any]:
    if key.row_number:
        return {"row_number": key.row_number}
    return {"column": key.column, "type": WORDS[key.dtype], "from": key.source_column}


def _target(target: Target) -> dict[str, Any]:
    return {
        "column": target.name,
        "type": None if target.dtype is DType.FP64 else WORDS[target.dtype],
        "drop_missing": target.drop_missing or None,
        "from": target.source_column,
    }


def _evaluation(chosen: Evaluation) -> dict[str, Any]:
    default = Evaluation()
    return {
        "metric": chosen.metric,
        "split": chosen.split.value if chosen.split else None,
        "fraction": chosen.fraction if chosen.fraction != default.fraction else None,
        "seed": chosen.seed if chosen.seed != default.seed else None,
    }


def _feature(feature: FeatureSpec) -> str:
    type_name = WORDS[feature.dtype]
    if not feature.nullable and not feature.source_column:
        return type_name
    return _flow(
        {"type": type_name, "nullable": feature.nullable or None, "from": feature.source_column}
    )


def _line(indent: str, field: str, value: str, why: str) -> str:
    comment = f" # {_comment(why)}" if why else ""
    return f"{indent}{field}: {value}{comment}"


def _flow(fields: Mapping[str, Any]) -> str:
    shown = (
        f"{name}: {_scalar(value)}" for name, value in fields.items() if value not in (None, "")
    )
    return f"{{{', '.join(shown)}}}"


def _scalar(value: object) -> str:
    """Format a value so that YAML reads it back, also within a flow mapping."""
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = value.isascii() and value.replace("_", "").isalnum()
    if is_plain and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _comment(text: str) -> str:
    return " ".join(word if word.isprintable() else "?" for word in text.split())
