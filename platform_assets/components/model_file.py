"""Read one model file: return the model, or raise all problems of the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

import platform_assets
from platform_assets.components.diagnostics import Diagnostic, ModelFileError
from platform_assets.components.document import Document, read_document
from platform_assets.components.messages import explain
from platform_assets.components.schema import FILE, FILE_NAMES, TABLE_FILE, ModelFile, TableFile
from platform_assets.components.tables import Tables, find_table_problems, with_tables
from platform_assets.model_spec import FeatureTableSpec, ModelSpec, Source
from platform_assets.training.candidates import SEARCH, CandidateError, check_candidates
from platform_assets.training.own_code import find_module

TABLE_TYPE: Final = "platform_assets.components.FeatureTable"
_File = TypeVar("_File", ModelFile, TableFile)
_LOCK: Final = Path(platform_assets.__file__).parents[1] / "requirements.lock.txt"
_PACKAGES: Final = ("scikit-learn", "skl2onnx", "onnx", "numpy", "pandas")
_BOOSTING: Final = ("lightgbm", "xgboost", "xgboost-cpu", "onnxmltools", "optuna")
"""Packages that affect a trained model, the latter if installed; used where there is no lock
file."""
_TRAINING_CODE: Final = ("model_spec", "features", "training", "export")
"""Subpackages of this package that affect a trained model."""
_CANDIDATE: Final = re.compile(r"candidates\[(?P<number>\d+)\] \(.*?\): (?P<message>.*)", re.DOTALL)


def is_table(document: Document) -> bool:
    """Whether a file describes a feature table."""
    value = document.value
    return isinstance(value, dict) and value.get("type") == TABLE_TYPE


def read_model(path: Path) -> ModelSpec:
    """Return the model of the file at `path`, which may refer to the tables beside it.

    Raises:
        ModelFileError: with every problem of the file, each with its line and field.
    """
    return parse_model(read_document(path), tables_beside(path.parent))


def parse_model(document: Document, tables: Tables) -> ModelSpec:
    """Return the model of a file; `tables` are those that it may refer to.

    Raises:
        ModelFileError: with every problem of the file, each with its line and field.
    """
    file = _validated(FILE, document, ModelFile)
    return complete(file.attributes, document, tables)


def parse_table(document: Document) -> FeatureTableSpec:
    """Return the feature table of a file.

    Raises:
        ModelFileError: with every problem of the file, each with its line and field.
    """
    file = _validated(TABLE_FILE, document, TableFile)
    return complete_table(file.attributes, document)


def _validated(adapter: TypeAdapter[_File], document: Document, kind: type[_File]) -> _File:
    try:
        return adapter.validate_python(document.value, by_alias=True, by_name=False)
    except ValidationError as error:
        diagnostics = [document.diagnostic(*problem) for problem in explain(error, kind)]
        raise ModelFileError(sorted(diagnostics, key=lambda problem: problem.line)) from error


def complete_table(spec: FeatureTableSpec, document: Document) -> FeatureTableSpec:
    """Add what follows from the location of a table's file: name, absolute path, code version.

    Raises:
        ModelFileError: the folder's name is not valid for a table.
    """
    folder = document.path.parent.absolute()
    try:
        return replace(
            spec,
            table_name=spec.table_name or folder.name,
            source=_with_absolute_paths(spec.source, folder),
            code_version=code_version(document.content),
        )
    except ValidationError as error:
        raise _name_error(document, "table_name", error) from error


def complete(spec: ModelSpec, document: Document, tables: Tables) -> ModelSpec:
    """Add what follows from a model file's location: name, absolute path, types, code version.

    Raises:
        ModelFileError: the folder's name is not valid for a model, or a candidate, a feature
            table, a column or a key does not exist.
    """
    folder, outcomes = document.path.parent.absolute(), spec.outcomes
    if outcomes is not None and outcomes.source is not None:
        outcomes = replace(outcomes, source=_with_absolute_paths(outcomes.source, folder))
    problems = find_table_problems(spec, tables, partial(_is_written, folder.parent))
    if unknown := [document.diagnostic(*problem) for problem in problems]:
        raise ModelFileError(sorted(unknown, key=lambda problem: problem.line))
    try:
        named = replace(
            spec,
            model_name=spec.model_name or folder.name,
            source=_with_absolute_paths(spec.source, folder),
            outcomes=outcomes,
        )
        typed = with_tables(named, tables)
        check_candidates(typed)
    except ValidationError as error:
        raise _name_error(document, "model_name", error) from error
    except CandidateError as error:
        raise ModelFileError([_candidate_problem(document, str(error))]) from error
    functions = [
        candidate.own_code for candidate in typed.candidates if candidate.own_code is not None
    ]
    # Only the parts of the tables that the model reads affect it.
    content = document.content + typed.contract.encode() if typed.tables else document.content
    return replace(typed, code_version=code_version(content, functions))


def _is_written(folder: Path, table: str) -> bool:
    """Whether a file describes a table of that name, valid or not."""
    for file in (folder / table / name for name in FILE_NAMES):
        if file.is_file():
            try:
                return is_table(read_document(file))
            except ModelFileError:  # not valid YAML
                return True
    return False


def _name_error(document: Document, field: str, error: ValidationError) -> ModelFileError:
    [(_, message)] = explain(error)
    advice = f"{message} (this is the folder's name: give another `{field}`)"
    return ModelFileError([document.diagnostic(("attributes", field), advice)])


def document_at(path: Path) -> Document:
    """Return the model file in or at `path`; for a component made by Python code, its file.

    Raises:
        ModelFileError: the model file is not YAML.
    """
    file = next((path / name for name in FILE_NAMES if (path / name).is_file()), path)
    if file.suffix in {".yaml", ".yml"}:
        return read_document(file)
    return Document(file, file.read_bytes() if file.is_file() else b"", None, None)


def tables_beside(path: Path) -> dict[str, FeatureTableSpec]:
    """Return the valid feature tables beside a model's folder or file, by name."""
    folder = path if path.is_dir() else path.parent
    tables = {}
    for file in (file for name in FILE_NAMES for file in folder.parent.glob(f"*/{name}")):
        with suppress(ModelFileError):  # a broken one is reported for its own file
            document = read_document(file)
            if is_table(document):
                table = parse_table(document)
                tables[table.name] = table
    return tables


def code_version(content: bytes, functions: Sequence[str] = (), lock: Path = _LOCK) -> str:
    """Return the digest of a model file and of the training code; 64 hexadecimal digits.

    For `functions` of candidates, as `module:name`, the sources of their modules are included.
    Without the project's lock file beside the package, the versions of the packages that affect a
    trained model are used instead.
    """
    modules = sorted({function.partition(":")[0] for function in functions})
    parts = [content, _lock_content(lock), _own_code(), *map(_source_of, modules)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@cache
def _own_code() -> bytes:
    package = Path(platform_assets.__file__).parent
    files = sorted(file for folder in _TRAINING_CODE for file in (package / folder).rglob("*.py"))
    return b"\0".join(file.read_bytes() for file in files)


def _source_of(module: str) -> bytes:
    module_spec = find_module(module)
    file = Path(module_spec.origin) if module_spec and module_spec.origin else None
    return file.read_bytes() if file is not None and file.is_file() else module.encode()


@cache
def _lock_content(lock: Path) -> bytes:
    if lock.is_file():
        return lock.read_bytes()
    return "\n".join(filter(None, map(_pin, (*_PACKAGES, *_BOOSTING)))).encode()


def _pin(name: str) -> str:
    try:
        return f"{name}=={metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return ""


def _with_absolute_paths(source: Source, folder: Path) -> Source:
    duckdb = source.duckdb
    if duckdb is not None:
        files = {name: _absolute(path, folder) for name, path in duckdb.files.items()}
        duckdb = replace(duckdb, files=files)
    return replace(source, file=source.file and _absolute(source.file, folder), duckdb=duckdb)


def _absolute(file: str, folder: Path) -> str:
    if file.startswith("${"):  # a variable may hold an absolute path
        return file
    path = Path(file).expanduser()
    while path.parts[:1] == ("..",):
        # The parent of a symbolic link is that of its target.
        folder, path = folder.resolve().parent, Path(*path.parts[1:])
    return str(folder / path)


def _candidate_problem(document: Document, message: str) -> Diagnostic:
    if message.startswith(f"{SEARCH}: "):
        return document.diagnostic(("attributes", SEARCH), message.removeprefix(f"{SEARCH}: "))
    place, match = ("attributes", "candidates"), _CANDIDATE.fullmatch(message)
    if match is None:
        return document.diagnostic(place, message)
    return document.diagnostic((*place, int(match["number"])), match["message"])
