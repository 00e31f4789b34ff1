"""A YAML document with the line of each field, read by Dagster's own reader.

Documents that this reader silently accepts (duplicate fields) or does not survive (values that no
constructor accepts, very deep or very large documents) are refused first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from dagster_shared.yaml_utils import DagsterYamlLoader, parse_yaml_with_source_position
from dagster_shared.yaml_utils.source_position import SourcePositionTree

from platform_assets.components.diagnostics import Diagnostic, FieldPath, ModelFileError, field_name

_MOST_VALUES: Final = 50_000
"""Maximum values of a file, aliases and merges expanded: no model needs more."""
_DEEPEST: Final = 100
"""Maximum nesting. PyYAML's own composer crashes the process on very deep documents."""

_FEATURES: Final = frozenset({"features", "request", "columns"})
"""Fields that are lists or mappings of features."""
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.CSafeLoader):
    """The fast safe loader that resolves scalars like Dagster's: dates stay text."""

    yaml_implicit_resolvers = DagsterYamlLoader.yaml_implicit_resolvers


@dataclass(frozen=True, slots=True)
class Document:
    """A file's bytes, its YAML value, and the places of all parts (None if unknown)."""

    path: Path
    content: bytes
    value: Any
    places: SourcePositionTree | None

    def line(self, path: FieldPath) -> int:
        """Return the line of the field at `path`, or of the nearest enclosing one."""
        if self.places is None:
            return 1
        nearest, _ = self.places.lookup_closest_and_path(path, None)  # type: ignore[arg-type] # it reads any sequence
        return nearest.start.line

    def diagnostic(self, path: FieldPath, message: str) -> Diagnostic:
        """Add the line to a problem at `path`; features in a mapping are named by their keys."""
        place = path[1:] if path[:1] == ("attributes",) and len(path) > 1 else path
        if len(place) > 1 and place[0] in _FEATURES and isinstance(place[1], int) and self.places:
            features = self.value["attributes"][place[0]]
            if isinstance(features, dict):
                rest = place[2:] if place[2:] != ("name",) else ()
                place = (place[0], *_places_in_mapping(features)[place[1]], *rest)
                path = ("attributes", *place)
        return Diagnostic(self.path, self.line(path), field_name(place) or "file", message)


def _places_in_mapping(features: dict[object, Any]) -> list[tuple[object, ...]]:
    """Return the place of each feature in a mapping: by name, or in a table's list of names."""
    return [
        place
        for name, columns in features.items()
        for place in (
            [(name, index) for index in range(len(columns))]
            if isinstance(columns, list)
            else [(name,)]
        )
    ]


class _InvalidError(Exception):
    """A problem of a document, and the node or event where it is."""

    def __init__(self, at: yaml.Node | yaml.Event, message: str, field: str = "file") -> None:
        super().__init__(message)
        self.line, self.field = at.start_mark.line + 1 if at.start_mark else 1, field


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ModelFileError: the file cannot be read, is not UTF-8 or not YAML, holds several
            documents, or has a duplicate field.
    """

    def refused(line: int, message: str, field: str = "file") -> ModelFileError:
        return ModelFileError([Diagnostic(path, line, field, message)])

    content = b""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        _refuse_depth(text)
        _Inspection().inspect(_only_document(text))
        value, places = parse_yaml_with_source_position(text, str(path))
    except OSError as error:
        raise refused(1, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise refused(line, "is not UTF-8 here: save the file as UTF-8") from error
    except RecursionError as error:
        raise refused(1, "is nested too deeply") from error
    except _InvalidError as error:
        raise refused(error.line, str(error), error.field) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        detail = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise refused(mark.line + 1 if mark else 1, f"is not YAML: {detail}") from error
    return Document(path, content, value, places)


def _refuse_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise _InvalidError(event, "is nested too deeply")


def _only_document(text: str) -> yaml.Node:
    first, *more = [*yaml.compose_all(text, _Loader)] or [yaml.ScalarNode("", "")]
    if first.start_mark is None:
        raise _InvalidError(first, "is empty: write `type:` and `attributes:`, as the README shows")
    if more:
        raise _InvalidError(more[0], "holds a second document: write one model per file")
    return first


class _Inspection:
    """Walks over all values, including every repetition by aliases and merges."""

    def __init__(self) -> None:
        self._remaining, self._loader = _MOST_VALUES, _Loader("")

    def inspect(self, node: yaml.Node) -> None:
        self._remaining -= 1
        if self._remaining < 0:
            raise _InvalidError(node, f"holds more than {_MOST_VALUES} values")
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
                raise _InvalidError(key, "a field name must be text")
            if key.value in seen:
                raise _InvalidError(key, "is given twice", key.value)
            if key.tag != _MERGE:
                self._check_scalar(key)
            seen.add(key.value)

    def _check_scalar(self, node: yaml.Node) -> None:
        try:
            self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:
            # PyYAML's constructors may raise anything: for 0x_, `!!int a`, 5000 digits.
            kind = node.tag.rpartition(":")[2]
            message = f"{node.value[:40]!r} is not valid {kind}: write a value, or quote it"
            raise _InvalidError(node, message) from error
