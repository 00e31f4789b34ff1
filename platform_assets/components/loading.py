"""The models of some folders; a broken file does not affect the others."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import platform_assets
from platform_assets.components.diagnostics import Diagnostic, ModelFileError
from platform_assets.components.document import read_document
from platform_assets.components.model_file import is_table, parse_model, parse_table
from platform_assets.components.schema import FILE_NAMES
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.training.own_code import MODELS_DIR, own_folders

_In = TypeVar("_In")
_Out = TypeVar("_Out")

SHIPPED: Final = Path(platform_assets.__file__).parent / "defs"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """The models and feature tables of valid files by file, and the problems of the others."""

    specs: dict[Path, ModelSpec]
    problems: tuple[Diagnostic, ...]
    tables: dict[Path, FeatureTableSpec] = field(default_factory=dict)

    @property
    def broken(self) -> dict[Path, list[Diagnostic]]:
        """The problems by broken file."""
        by_file: dict[Path, list[Diagnostic]] = {}
        for problem in self.problems:
            by_file.setdefault(problem.file, []).append(problem)
        return by_file


def model_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the built-in folder and those of `MODELS_DIR`."""
    return (SHIPPED, *own_folders(environ))


def read_models(folders: Path | Iterable[Path] | None = None) -> Models:
    """Read `<folder>/<model>/defs.yaml` of every folder; None: of `model_folders()`."""
    problems: list[Diagnostic] = []
    files: dict[Path, Path] = {}  # a file reachable through two folders is one file
    if folders is None:
        folders = model_folders()
    for folder in [folders] if isinstance(folders, Path) else folders:
        try:
            inside = sorted(one for one in folder.iterdir() if not _is_hidden(one.name))
        except OSError as error:
            problems.append(_unreadable(folder, error))
            continue
        for own in (folder, *inside):  # a model's own folder may be given as well
            try:
                found = [own / name for name in FILE_NAMES if (own / name).exists()]
            except OSError as error:
                problems.append(_unreadable(own, error))
                continue
            for file in found:
                files.setdefault(file.resolve(), file)
    documents = _read_all({file: file for file in files.values()}, read_document, problems)
    tables = _read_all(
        {file: document for file, document in documents.items() if is_table(document)},
        parse_table,
        problems,
    )
    claimed = {problem.file for problem in _clashes(tables)}
    by_name = {table.name: table for file, table in tables.items() if file not in claimed}
    specs = _read_all(
        {file: document for file, document in documents.items() if not is_table(document)},
        partial(parse_model, tables=by_name),
        problems,
    )
    clashes = _clashes({**tables, **specs})
    taken = {problem.file for problem in clashes}
    if lost := {tables[file].name for file in taken - claimed if file in tables}:
        # To a model of the same name: those that read them have no table either.
        rest = {name: table for name, table in by_name.items() if name not in lost}
        read = partial(parse_model, tables=rest)
        specs = _read_all({file: documents[file] for file in specs}, read, problems)
    return Models(
        {file: spec for file, spec in specs.items() if file not in taken},
        (*problems, *clashes),
        {file: table for file, table in tables.items() if file not in taken},
    )


def _read_all(
    inputs: Mapping[Path, _In], read: Callable[[_In], _Out], problems: list[Diagnostic]
) -> dict[Path, _Out]:
    """Return the result of `read` by file; the problems of the others are added to `problems`."""
    good: dict[Path, _Out] = {}
    for file, value in inputs.items():
        try:
            good[file] = read(value)
        except ModelFileError as error:
            problems += error.problems
        except Exception as error:  # any kind, so that the other files still load
            message = f"cannot be read: {type(error).__name__}: {error}"
            problems.append(Diagnostic(file, 1, "file", message))
            _log.exception("%s cannot be read", file)
    return good


def _is_hidden(name: str) -> bool:
    """Whether an entry of a folder cannot be a model's, such as a volume's `lost+found`."""
    return name.startswith((".", "__")) or name == "lost+found"


def _unreadable(folder: Path, error: OSError) -> Diagnostic:
    message = f"cannot be read: {error.strerror}; correct the path or {MODELS_DIR}"
    return Diagnostic(folder, 1, "folder", message)


def _clashes(specs: Mapping[Path, ModelSpec | FeatureTableSpec]) -> list[Diagnostic]:
    """Find names claimed by several files: the file whose folder has the name keeps it.

    Models and tables share one namespace, that of asset groups.
    """
    claims: dict[str, list[Path]] = {}
    for file, spec in specs.items():
        # MySQL and the disks of some laptops do not distinguish Cars and cars.
        claims.setdefault(spec.name.casefold(), []).append(file)
    diagnostics = []
    for files in claims.values():
        owners = [file for file in files if file.parent.name == specs[file].name]
        losers = [file for file in files if len(owners) != 1 or file != owners[0]]
        for file in losers if len(files) > 1 else []:
            others = ", ".join(str(other) for other in files if other != file)
            kind = "table" if isinstance(specs[file], FeatureTableSpec) else "model"
            message = (
                f"{specs[file].name!r} is also the name of {others}: give one of them another "
                f"{kind}_name"
            )
            line = read_document(file).line(("attributes", f"{kind}_name"))
            diagnostics.append(Diagnostic(file, line, f"{kind}_name", message))
    return diagnostics


def explain_missing_model(models: Models, model_name: str) -> str | None:
    """Say why a model is missing; None if it is not."""
    known = sorted(spec.model_name for spec in models.specs.values())
    if model_name in known:
        return None
    broken = models.broken
    own = [
        str(problem)
        for file, problems in broken.items()
        if model_name in _names(file)
        for problem in problems
    ]
    if own:
        return "\n".join((f"the model file of {model_name} is broken; correct it:", *own))
    near = difflib.get_close_matches(model_name, known, n=3)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    others = "".join(f"\nnot among them, because it is broken: {file}" for file in broken)
    return f"no model file says {model_name}.{guess} There are {', '.join(known) or 'none'}{others}"


def _names(file: Path) -> set[object]:
    """Return the names under which a person may look for a broken file."""
    try:
        written = read_document(file).value["attributes"]["model_name"]
    except (ModelFileError, LookupError, TypeError):
        written = None
    return {file.parent.name, written if isinstance(written, str) else None}
