"""Why there is no model of the name that a person asked for."""

from __future__ import annotations

import difflib
from pathlib import Path

from platform_assets.components.diagnostics import ModelFileError
from platform_assets.components.document import read_document
from platform_assets.components.loading import Models


def explain_missing_model(models: Models, model_name: str) -> str | None:
    """Say what keeps a model from being there; None when nothing does."""
    known = sorted(spec.model_name for spec in models.specs.values())
    if model_name in known:
        return None
    broken = models.broken
    own = [
        str(problem)
        for file, found in broken.items()
        if model_name in _names(file)
        for problem in found
    ]
    if own:
        return "\n".join((f"the model file of {model_name} is broken; correct it:", *own))
    near = difflib.get_close_matches(model_name, known, n=3)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    others = "".join(f"\nnot among them, because it is broken: {file}" for file in broken)
    return f"no model file says {model_name}.{guess} There are {', '.join(known) or 'none'}{others}"


def _names(file: Path) -> set[object]:
    """The names under which a person may look for a broken file."""
    try:
        written = read_document(file).value["attributes"]["model_name"]
    except (ModelFileError, LookupError, TypeError):
        written = None
    return {file.parent.name, written if isinstance(written, str) else None}
