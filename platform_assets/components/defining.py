"""The definitions of all models; a broken file becomes an asset that shows its problems."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg

from platform_assets.components.component import build_definitions
from platform_assets.components.diagnostics import Diagnostic
from platform_assets.components.loading import Models
from platform_assets.components.schema import FILE_NAMES
from platform_assets.model_spec import FeatureTableSpec, ModelSpec

Build = Callable[[ModelSpec | FeatureTableSpec], dg.Definitions]

_log = logging.getLogger(__name__)


def define_models(models: Models, build: Build = build_definitions) -> dg.Definitions:
    """Merge the definitions of all valid files; a broken one becomes an asset that says why.

    A file whose `build` raises counts as broken too.
    """
    broken = models.broken
    parts: list[dg.Definitions] = []
    good: dict[Path, ModelSpec | FeatureTableSpec] = {**models.tables, **models.specs}
    for file, spec in good.items():
        try:
            parts.append(build(spec))
        except Exception as error:  # any kind, so that the other files still load
            message = f"{type(error).__name__}: {error}"
            broken[file] = [Diagnostic(file, 1, "definitions", message)]
            _log.exception("the definitions of %s cannot be built", file)
    for problems in broken.values():
        for problem in problems:
            _log.error("%s", problem)
    return dg.Definitions.merge(*parts, dg.Definitions(assets=[*_placeholders(broken)]))


def _placeholders(broken: dict[Path, list[Diagnostic]]) -> Iterator[dg.AssetSpec]:
    folders: Counter[str] = Counter()
    for file, problems in broken.items():
        folder = file.parent.name if file.name in FILE_NAMES else file.name
        folders[folder] += 1
        # Two folders of the same name, in two places, are two assets.
        key = folder if folders[folder] == 1 else f"{folder} ({folders[folder]})"
        yield dg.AssetSpec(
            [key, "model_file"],
            group_name=re.sub(r"[^A-Za-z0-9_]", "_", folder) or "models",
            description="This model file is broken, so nothing of it is defined.\n\n"
            + "\n\n".join(str(problem) for problem in problems),
            kinds={"yaml", "broken"},
            tags={"serving/model_file": "broken"},
            metadata={"problems": len(problems), "file": dg.MetadataValue.path(str(file))},
        )
