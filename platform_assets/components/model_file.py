"""One model file, read: the model, or all that is wrong with the file."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

import platform_assets
from platform_assets.components.document import Document, Place, read_document
from platform_assets.components.fields import ModelFields
from platform_assets.components.problems import Fault, ModelFileError, Problem
from platform_assets.components.rules import faults
from platform_assets.components.specs import model_spec
from platform_assets.components.typing_faults import as_written, read_fields, shown
from platform_assets.model_spec import ModelSpec
from platform_assets.training.candidates import CandidateError, check_candidates

COMPONENT_TYPE: Final = "platform_assets.components.TabularModel"
FILE_NAMES: Final = ("defs.yaml", "defs.yml")

_LOCK: Final = Path(platform_assets.__file__).parents[1] / "requirements.lock.txt"
_PACKAGES: Final = ("scikit-learn", "skl2onnx", "onnx", "numpy", "pandas")
"""What decides on a trained model; counts where there is no lock file."""
_BELOW: Final = ("attributes",)
_CANDIDATE: Final = re.compile(r"candidates\[(?P<number>\d+)\] \(.*?\): (?P<message>.*)", re.DOTALL)


def read_model(path: Path) -> ModelSpec:
    """Return the model of the file at `path`.

    Raises:
        ModelFileError: with every problem of the file, each with its line and field.
    """
    document = read_document(path)
    fields, problems = _read_fields(document)
    if fields is None or problems:
        raise ModelFileError(problems)
    return spec_of(fields, document)


def spec_of(fields: ModelFields, document: Document) -> ModelSpec:
    """Return the model of typed fields; `document` is where they were written.

    Raises:
        ModelFileError: for fields that contradict each other.
    """
    folder = document.path.parent.absolute()
    name = fields.model_name if fields.model_name is not None else folder.name
    found = faults(fields, name)
    if found:
        raise ModelFileError([_located(document, fault.path, fault.message) for fault in found])
    version = code_version(document.content)
    spec = model_spec(fields, name=name, folder=folder, code_version=version)
    try:
        check_candidates(spec)
    except CandidateError as error:
        raise ModelFileError([_candidate_problem(document, str(error))]) from error
    return spec


def document_at(path: Path) -> Document:
    """Return the model file in or at `path`; for a component that Python code made, its file.

    Raises:
        ModelFileError: for a model file that is not YAML.
    """
    file = next((path / name for name in FILE_NAMES if (path / name).is_file()), path)
    if file.suffix in {".yaml", ".yml"}:
        return read_document(file)
    return Document(file, file.read_bytes() if file.is_file() else b"", None, Place(1))


def code_version(content: bytes, lock: Path = _LOCK) -> str:
    """Digest of a model file and of the locked packages; 64 hexadecimal digits.

    Where the project's lock file is not beside the package, the versions of the packages that
    decide on a trained model stand in for it.
    """
    return hashlib.sha256(content + b"\0" + _locked(lock)).hexdigest()


@cache
def _locked(lock: Path) -> bytes:
    if lock.is_file():
        return lock.read_bytes()
    return "\n".join(f"{name}=={metadata.version(name)}" for name in _PACKAGES).encode()


def _read_fields(document: Document) -> tuple[ModelFields | None, list[Problem]]:
    value = document.value
    if not isinstance(value, dict):
        problem = Problem(
            document.path, 1, "file", "must be a mapping with `type:` and `attributes:`"
        )
        return None, [problem]
    problems = _envelope(document, value)
    if not isinstance(value.get("attributes"), dict):
        if "attributes" in value:
            line = document.line(_BELOW)
            message = f"must be a mapping of fields, not {shown(value['attributes'])}"
            problems.append(Problem(document.path, line, "attributes", message))
        return None, problems
    fields, found = read_fields(value["attributes"])
    problems += [document.problem(fault, _BELOW) for fault in found]
    return fields, problems


def _envelope(document: Document, value: dict[object, object]) -> list[Problem]:
    problems = []
    for name in ("type", "attributes"):
        if name not in value:
            message = f"is missing: write `{name}:`, as the README shows"
            problems.append(Problem(document.path, 1, name, message))
    if value.get("type", COMPONENT_TYPE) != COMPONENT_TYPE:
        message = f"must be {COMPONENT_TYPE}, not {shown(value['type'])}"
        problems.append(Problem(document.path, document.line(("type",)), "type", message))
    for other in value.keys() - {"type", "attributes"}:
        message = "is no part of a model file: there are `type` and `attributes`"
        problems.append(Problem(document.path, document.line((other,)), str(other), message))
    return problems


def _candidate_problem(document: Document, message: str) -> Problem:
    found = _CANDIDATE.fullmatch(message)
    if found is None:
        return _located(document, ("candidates",), message)
    return _located(document, ("candidates", int(found["number"])), found["message"])


def _located(document: Document, path: tuple[object, ...], message: str) -> Problem:
    written = document.value.get("attributes") if isinstance(document.value, dict) else None
    fault = Fault(as_written(path, written), message)
    return document.problem(fault, _BELOW)
