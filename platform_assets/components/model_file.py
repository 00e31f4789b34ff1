"""One model file, read: the model, or all that is wrong with the file."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from pydantic import ValidationError

import platform_assets
from platform_assets.components.diagnostics import Diagnostic, ModelFileError
from platform_assets.components.document import Document, read_document
from platform_assets.components.messages import explain
from platform_assets.components.schema import FILE, FILE_NAMES
from platform_assets.model_spec import ModelSpec
from platform_assets.training.candidates import CandidateError, check_candidates

_LOCK: Final = Path(platform_assets.__file__).parents[1] / "requirements.lock.txt"
_PACKAGES: Final = ("scikit-learn", "skl2onnx", "onnx", "numpy", "pandas")
"""What decides on a trained model; counts where there is no lock file."""
_TRAINING_CODE: Final = ("model_spec", "features", "training", "export")
"""Packages of this one that decide on a trained model."""
_CANDIDATE: Final = re.compile(r"candidates\[(?P<number>\d+)\] \(.*?\): (?P<message>.*)", re.DOTALL)


def read_model(path: Path) -> ModelSpec:
    """Return the model of the file at `path`.

    Raises:
        ModelFileError: with every problem of the file, each with its line and field.
    """
    document = read_document(path)
    try:
        file = FILE.validate_python(document.value, by_alias=True, by_name=False)
    except ValidationError as error:
        found = [document.diagnostic(*one) for one in explain(error)]
        raise ModelFileError(sorted(found, key=lambda one: one.line)) from error
    return complete(file.attributes, document)


def complete(spec: ModelSpec, document: Document) -> ModelSpec:
    """Add what follows from where a model is written: name, absolute path, code version.

    Raises:
        ModelFileError: for a folder whose name a model cannot have, or for a candidate that
            does not exist.
    """
    folder = document.path.parent.absolute()
    file = spec.source.file and _absolute(spec.source.file, folder)
    try:
        found = replace(
            spec,
            model_name=spec.model_name or folder.name,
            source=replace(spec.source, file=file),
        )
        check_candidates(found)
    except ValidationError as error:
        [(_, message)] = explain(error)
        advice = f"{message} (this is the folder's name: give another `model_name`)"
        raise ModelFileError([document.diagnostic(("attributes", "model_name"), advice)]) from error
    except CandidateError as error:
        raise ModelFileError([_candidate_problem(document, str(error))]) from error
    functions = [one.function for one in found.candidates if one.function is not None]
    return replace(found, code_version=code_version(document.content, functions))


def document_at(path: Path) -> Document:
    """Return the model file in or at `path`; for a component that Python code made, its file.

    Raises:
        ModelFileError: for a model file that is not YAML.
    """
    file = next((path / name for name in FILE_NAMES if (path / name).is_file()), path)
    if file.suffix in {".yaml", ".yml"}:
        return read_document(file)
    return Document(file, file.read_bytes() if file.is_file() else b"", None, None)


def code_version(content: bytes, functions: Sequence[str] = (), lock: Path = _LOCK) -> str:
    """Digest of a model file and of the code that trains by it; 64 hexadecimal digits.

    Of `functions` of candidates, as `module:name`, the sources of their modules count. Where the
    project's lock file is not beside the package, the versions of the packages that decide on a
    trained model take its place.
    """
    modules = sorted({function.partition(":")[0] for function in functions})
    parts = [content, _locked(lock), _own_code(), *map(_source_of, modules)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@cache
def _own_code() -> bytes:
    package = Path(platform_assets.__file__).parent
    files = sorted(file for folder in _TRAINING_CODE for file in (package / folder).rglob("*.py"))
    return b"\0".join(file.read_bytes() for file in files)


def _source_of(module: str) -> bytes:
    found = importlib.util.find_spec(module)
    file = Path(found.origin) if found and found.origin else None
    return file.read_bytes() if file is not None and file.is_file() else module.encode()


@cache
def _locked(lock: Path) -> bytes:
    if lock.is_file():
        return lock.read_bytes()
    return "\n".join(f"{name}=={metadata.version(name)}" for name in _PACKAGES).encode()


def _absolute(file: str, folder: Path) -> str:
    if file.startswith("${"):  # a variable may hold an absolute path
        return file
    path = Path(file).expanduser()
    while path.parts[:1] == ("..",):
        # Above a folder that is a link is what is above its target.
        folder, path = folder.resolve().parent, Path(*path.parts[1:])
    return str(folder / path)


def _candidate_problem(document: Document, message: str) -> Diagnostic:
    place, found = ("attributes", "candidates"), _CANDIDATE.fullmatch(message)
    if found is None:
        return document.diagnostic(place, message)
    return document.diagnostic((*place, int(found["number"])), found["message"])
