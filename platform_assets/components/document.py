"""A YAML document with the line of each of its fields, by Dagster's own reader.

What that reader accepts in silence (fields that are given twice) or does not survive (values that
no constructor takes, very deep or very large documents) is refused first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from dagster_shared.yaml_utils import DagsterYamlLoader, parse_yaml_with_source_position
from dagster_shared.yaml_utils.source_position import SourcePositionTree

from platform_assets.components.diagnostics import (
    Diagnostic,
    FieldPath,
    ModelFileError,
    field_name,
)

ATTRIBUTES: Final = "attributes"
_MOST_VALUES: Final = 50_000
"""Values of one file, aliases and merges expanded: no model needs more."""
_DEEPEST: Final = 100
"""Values inside each other. PyYAML's own composer ends the process when there are very many."""


class _Loader(yaml.CSafeLoader):
    """The fast safe loader, which resolves scalars as Dagster's does: dates stay text."""

    yaml_implicit_resolvers = DagsterYamlLoader.yaml_implicit_resolvers


@dataclass(frozen=True, slots=True)
class Document:
    """A file's bytes, its value as YAML reads it, and where everything stands (None: nowhere)."""

    path: Path
    content: bytes
    value: Any
    places: SourcePositionTree | None

    def line(self, path: FieldPath) -> int:
        """Line of the field at `path`, or of the nearest one that holds it."""
        if self.places is None:
            return 1
        nearest, _ = self.places.lookup_closest_and_path(path, None)  # type: ignore[arg-type]
        return nearest.start.line

    def diagnostic(self, path: FieldPath, message: str) -> Diagnostic:
        """Give a problem below `attributes` its line; the key of a mapping names a feature."""
        attributes = self.value.get(ATTRIBUTES) if isinstance(self.value, dict) else None
        features = attributes.get("features") if isinstance(attributes, dict) else None
        if len(path) > 1 and path[0] == "features" and isinstance(features, dict):
            rest = path[2:] if path[2:] != ("name",) else ()
            path = ("features", list(features)[int(str(path[1]))], *rest)
        line = self.line((ATTRIBUTES, *path))
        return Diagnostic(self.path, line, field_name(path) or ATTRIBUTES, message)


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ModelFileError: for a file that cannot be read, is not UTF-8, is not YAML, holds
            several documents, or gives one field twice.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise _refused(path, 1, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refused(path, line, "is not UTF-8 here: save the file as UTF-8") from error
    try:
        _refuse_depth(path, text)
        _Inspection(path).inspect(_only_document(path, text))
        parsed = parse_yaml_with_source_position(text, str(path))
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from error
    except RecursionError as error:
        raise _refused(path, 1, "is nested too deeply") from error
    return Document(path, content, parsed.value, parsed.source_position_tree)


def _refuse_depth(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            mark = event.start_mark
            raise _refused(path, mark.line + 1 if mark else 1, "is nested too deeply")


def _only_document(path: Path, text: str) -> yaml.Node:
    documents = list(yaml.compose_all(text, _Loader))
    if not documents:
        raise _refused(path, 1, "is empty: write `type:` and `attributes:`, as the README shows")
    if len(documents) > 1:
        line = documents[1].start_mark.line + 1
        raise _refused(path, line, "holds a second document: write one model per file")
    return documents[0]


class _Inspection:
    """Walks over all values, those that aliases and merges repeat as often as they do."""

    def __init__(self, path: Path) -> None:
        self._path, self._left = path, _MOST_VALUES
        self._loader = _Loader("")

    def inspect(self, node: yaml.Node) -> None:
        self._left -= 1
        if self._left < 0:
            raise self._refused(node, f"holds more than {_MOST_VALUES} values")
        if isinstance(node, yaml.MappingNode):
            self._check_keys([key for key, _ in node.value])
            for _, value in node.value:
                self.inspect(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.inspect(item)
        else:
            self._check_scalar(node)

    def _check_keys(self, keys: list[yaml.Node]) -> None:
        seen: set[str] = set()
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refused(key, "a field name must be text")
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ModelFileError([Diagnostic(self._path, line, key.value, "is given twice")])
            seen.add(key.value)

    def _check_scalar(self, node: yaml.Node) -> None:
        try:
            self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:
            # PyYAML's constructors let any exception through: for 0x_, `!!int a`, 5000 digits.
            kind = node.tag.rpartition(":")[2]
            message = f"{node.value[:40]!r} is not valid {kind}: write a value, or quote it"
            raise self._refused(node, message) from error

    def _refused(self, node: yaml.Node, message: str) -> ModelFileError:
        return _refused(self._path, node.start_mark.line + 1, message)


def _refused(path: Path, line: int, message: str) -> ModelFileError:
    return ModelFileError([Diagnostic(path, line, "file", message)])


def _not_yaml(path: Path, error: yaml.YAMLError) -> ModelFileError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    detail = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return _refused(path, mark.line + 1 if mark else 1, f"is not YAML: {detail}")
