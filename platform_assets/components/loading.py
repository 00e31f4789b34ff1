"""All models of some folders; one broken file never takes the others down."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg

import platform_assets
from platform_assets.components.component import build_model
from platform_assets.components.diagnostics import Diagnostic, ModelFileError
from platform_assets.components.document import read_document
from platform_assets.components.model_file import read_model
from platform_assets.components.schema import FILE_NAMES
from platform_assets.model_spec import ModelSpec

Build = Callable[[ModelSpec], dg.Definitions]

SHIPPED: Final = Path(platform_assets.__file__).parent / "defs"
MODELS_DIR: Final = "MODELS_DIR"
"""Environment variable: more folders of models, separated as those of PATH are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """The models of good files by file, and what is wrong with the others."""

    specs: dict[Path, ModelSpec]
    problems: tuple[Diagnostic, ...]

    @property
    def broken(self) -> dict[Path, list[Diagnostic]]:
        """The problems of each file that has some."""
        by_file: dict[Path, list[Diagnostic]] = {}
        for problem in self.problems:
            by_file.setdefault(problem.file, []).append(problem)
        return by_file


def model_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the shipped folder and those of `MODELS_DIR`."""
    more = environ.get(MODELS_DIR, "").split(os.pathsep)
    return (SHIPPED, *(Path(folder).expanduser().absolute() for folder in more if folder))


def read_models(folders: Path | Iterable[Path] | None = None) -> Models:
    """Read `<folder>/<model>/defs.yaml` of every folder; None: of `model_folders()`."""
    specs: dict[Path, ModelSpec] = {}
    problems: list[Diagnostic] = []
    files: dict[Path, Path] = {}  # a file that two folders show is one file
    if folders is None:
        folders = model_folders()
    for folder in [folders] if isinstance(folders, Path) else folders:
        try:
            found = model_files(folder)
        except OSError as error:
            message = f"cannot be read: {error.strerror}; correct the path or {MODELS_DIR}"
            problems.append(Diagnostic(folder, 1, "folder", message))
            continue
        for file in found:
            files.setdefault(file.resolve(), file)
    for file in files.values():
        try:
            specs[file] = read_model(file)
        except ModelFileError as error:
            problems += error.problems
        except Exception as error:  # of any kind: the others load
            message = f"cannot be read: {type(error).__name__}: {error}"
            problems.append(Diagnostic(file, 1, "file", message))
            _log.exception("%s cannot be read", file)
    clashes = _clashes(specs)
    taken = {problem.file for problem in clashes}
    good = {file: spec for file, spec in specs.items() if file not in taken}
    return Models(good, (*problems, *clashes))


def model_files(folder: Path) -> list[Path]:
    """Return the model files of a folder of models, or that of a model's own folder.

    Raises:
        OSError: for a folder that is not there or cannot be read.
    """
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    candidates = [entry / name for entry in (folder, *inside) for name in FILE_NAMES]
    return [file for file in candidates if file.exists()]


def load_specs(folders: Path | Iterable[Path] | None = None) -> list[ModelSpec]:
    """Return the models of the good files, in the order of folders and names."""
    return list(read_models(folders).specs.values())


def define_models(models: Models, build: Build = build_model) -> dg.Definitions:
    """Merge the definitions of every good model; a broken file becomes an asset that says why.

    A model whose `build` raises counts as broken too.
    """
    broken = models.broken
    parts: list[dg.Definitions] = []
    for file, spec in models.specs.items():
        try:
            parts.append(build(spec))
        except Exception as error:  # of any kind: the others load
            message = f"{type(error).__name__}: {error}"
            broken[file] = [Diagnostic(file, 1, "definitions", message)]
            _log.exception("the definitions of %s cannot be built", file)
    for found in broken.values():
        for problem in found:
            _log.error("%s", problem)
    return dg.Definitions.merge(*parts, dg.Definitions(assets=[*_placeholders(broken)]))


def _clashes(specs: dict[Path, ModelSpec]) -> list[Diagnostic]:
    """Find names that several files claim: the file whose folder has the name keeps it."""
    claims: dict[str, list[Path]] = {}
    for file, spec in specs.items():
        # MySQL and the disks of some laptops take Cars and cars for one.
        claims.setdefault(spec.model_name.casefold(), []).append(file)
    found = []
    for files in claims.values():
        owners = [file for file in files if file.parent.name == specs[file].model_name]
        losers = [file for file in files if len(owners) != 1 or file != owners[0]]
        for file in losers if len(files) > 1 else []:
            others = ", ".join(str(other) for other in files if other != file)
            message = (
                f"{specs[file].model_name!r} is also the model of {others}: give one of them "
                "another model_name"
            )
            line = read_document(file).line(("attributes", "model_name"))
            found.append(Diagnostic(file, line, "model_name", message))
    return found


def _placeholders(broken: dict[Path, list[Diagnostic]]) -> Iterator[dg.AssetSpec]:
    folders: Counter[str] = Counter()
    for file, found in broken.items():
        folder = file.parent.name if file.name in FILE_NAMES else file.name
        folders[folder] += 1
        # Two folders of one name, in two places, are two assets.
        key = folder if folders[folder] == 1 else f"{folder} ({folders[folder]})"
        yield dg.AssetSpec(
            [key, "model_file"],
            group_name=re.sub(r"[^A-Za-z0-9_]", "_", folder) or "models",
            description="This model file is broken, so nothing of it is defined.\n\n"
            + "\n\n".join(str(problem) for problem in found),
            kinds={"yaml", "broken"},
            tags={"serving/model_file": "broken"},
            metadata={"problems": len(found), "file": dg.MetadataValue.path(str(file))},
        )
