"""Write a model file: checked, complete, and never over an existing one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from platform_assets.components.diagnostics import ModelFileError
from platform_assets.components.loading import read_models
from platform_assets.components.model_file import read_model
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError
from platform_assets.components.scaffold.rendering import render
from platform_assets.components.schema import FILE_NAMES


def write_model(draft: Draft, request: ModelRequest, folder: Path) -> Path:
    """Write the model file into its future `folder`, and return its path.

    The folder is created together with a file that passed the check, or not at all; an existing
    one may hold anything but a model file.

    Raises:
        ScaffoldError: the file does not pass the check, or cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder) as staged:
            file = staged / FILE_NAMES[0]
            named = _path_from(folder, request.path)
            file.write_text(render(draft, request, named), encoding="utf-8")
            _check(file, draft, named)
            if folder.is_dir():
                _refuse_model_file(folder)  # one may have come meanwhile
                (folder / file.name).hardlink_to(file)
            else:
                staged.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ScaffoldError(f"{folder} cannot be written: {reason}; nothing was left") from error
    except ModelFileError as error:
        raise ScaffoldError(f"what was inferred is not valid: {error}; nothing was left") from error
    return folder / FILE_NAMES[0]


def _check(file: Path, draft: Draft, table: str) -> None:
    """Raise ScaffoldError unless the file reads as the model whose rows were validated."""
    actual, expected = read_model(file), draft.spec
    same = replace(actual, source=expected.source, code_version=expected.code_version)
    if (
        same != expected
        or Path(str(actual.source.file)).resolve() != (file.parent / table).resolve()
    ):
        raise ScaffoldError("the file that was written says something else than was inferred")


def require_available(model_name: str, folder: Path, others: Sequence[Path]) -> None:
    """Raise ScaffoldError where the folder has a model file, or the name is another's."""
    try:
        _refuse_model_file(folder)
        siblings = [folder.parent] if folder.parent.is_dir() else []
    except OSError as error:
        raise ScaffoldError(f"{folder} cannot be read: {error.strerror}") from error
    models = read_models([*siblings, *others])
    for kind, known in (("model", models.specs), ("feature table", models.tables)):
        for file, spec in known.items():
            if spec.name.casefold() == model_name.casefold():
                raise ScaffoldError(f"{file} is a {kind} named {spec.name}: give another name")


def _refuse_model_file(folder: Path) -> None:
    if any((folder / name).exists() for name in FILE_NAMES):
        raise ScaffoldError(
            f"{folder} has a model file, which stays as it is: give another name, or remove it"
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that readers of models ignore."""
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _path_from(folder: Path, table: Path) -> str:
    """Return the table's path for the model file: relative if both are below a common base."""
    # The parent of a symbolic link is that of its target.
    folder, real = folder.resolve(), table.resolve()
    for base in (folder.parent, Path.cwd().resolve()):
        if real.is_relative_to(base) and folder.is_relative_to(base):
            return os.path.relpath(real, folder)
    return str(table)
