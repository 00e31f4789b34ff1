"""A YAML document that knows on which line each of its fields stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from platform_assets.components.problems import (
    Fault,
    FieldPath,
    ModelFileError,
    Problem,
    field_name,
)

_MOST_VALUES: Final = 50_000
"""Values of one file, aliases and merges expanded: what is more was not written by a person."""
_DEEPEST: Final = 100
"""Values inside each other. PyYAML's own composer ends the process when there are very many."""
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(yaml.CSafeLoader):
    """The safe loader; dates stay text, as in Dagster's own reading of these files."""

    yaml_implicit_resolvers = {  # noqa: RUF012 # PyYAML's own attribute
        first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
        for first, entries in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True)
class Place:
    """The line of a value, and the places of what is inside it."""

    line: int
    inside: dict[object, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's bytes, its value as YAML reads it, and where everything stands."""

    path: Path
    content: bytes
    value: Any
    place: Place

    def line(self, path: FieldPath) -> int:
        """Line of the field at `path`, or of the nearest one that holds it."""
        place = self.place
        for part in path:
            if part not in place.inside:
                break
            place = place.inside[part]
        return place.line

    def problem(self, fault: Fault, below: FieldPath = ()) -> Problem:
        """Give a fault its line; `below` is where the fault's path begins."""
        line = self.line((*below, *fault.path))
        return Problem(self.path, line, field_name(fault.path) or "file", fault.message)


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        ModelFileError: for a file that cannot be read, is not UTF-8, is not YAML, holds
            several documents, or gives one field twice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refused(path, 1, f"cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refused(path, line, "is not UTF-8 here: save the file as UTF-8") from error
    try:
        _refuse_depth(path, text)
        loader = _Loader(text)
    except yaml.YAMLError as error:  # characters that YAML does not allow, among others
        raise _not_yaml(path, error) from error
    try:
        return _parsed(path, content, loader)
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from error
    except RecursionError as error:
        raise _refused(path, 1, "is nested too deeply") from error
    finally:
        loader.dispose()


def _refuse_depth(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            mark = event.start_mark
            raise _refused(path, mark.line + 1 if mark else 1, "is nested too deeply")


def _parsed(path: Path, content: bytes, loader: _Loader) -> Document:
    node = loader.get_node() if loader.check_node() else None
    if node is None:
        raise _refused(path, 1, "is empty: write `type:` and `attributes:`, as the README shows")
    second = loader.get_node() if loader.check_node() else None
    if second is not None:
        line = second.start_mark.line + 1
        raise _refused(path, line, "holds a second document: write one model per file")
    value, place = _Reader(path, loader).read(node)
    return Document(path, content, value, place)


class _Reader:
    """Makes values of YAML's nodes, and keeps their lines."""

    def __init__(self, path: Path, loader: _Loader) -> None:
        self._path, self._loader = path, loader
        self._left = _MOST_VALUES

    def read(self, node: yaml.Node) -> tuple[Any, Place]:
        line = node.start_mark.line + 1
        self._spend(line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, line)
        if isinstance(node, yaml.SequenceNode):
            items = [self.read(item) for item in node.value]
            return [item for item, _ in items], Place(
                line, {index: place for index, (_, place) in enumerate(items)}
            )
        return self._scalar(node, line), Place(line)

    def _spend(self, line: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise _refused(self._path, line, f"holds more than {_MOST_VALUES} values")

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        try:
            return self._loader.construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception as error:
            # PyYAML's constructors raise whatever they meet: for 0x_, `!!int a`, 5000 digits.
            kind = node.tag.rpartition(":")[2]
            raise _refused(
                self._path, line, f"{node.value[:40]!r} is no {kind}: write a value, or quote it"
            ) from error

    def _count_merged(self, node: yaml.Node) -> None:
        """Count what `<<` will copy, before it is copied: merges of merges double each time."""
        self._spend(node.start_mark.line + 1)
        for part in node.value if isinstance(node, yaml.CollectionNode) else ():
            if isinstance(part, yaml.Node):
                self._count_merged(part)
            elif part[0].tag == _MERGE:
                self._count_merged(part[1])
            else:
                self._spend(part[0].start_mark.line + 1)

    def _mapping(self, node: yaml.MappingNode, line: int) -> tuple[dict[object, Any], Place]:
        written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(self._path, key.start_mark.line + 1, "a field name must be text")
            if key.value in written[:position]:
                raise ModelFileError(
                    [Problem(self._path, key.start_mark.line + 1, key.value, "is given twice")]
                )
            if key.tag == _MERGE:
                self._count_merged(value)
        self._loader.flatten_mapping(node)  # `<<`
        values: dict[object, Any] = {}
        places: dict[object, Place] = {}
        for key, value_node in node.value:
            name, _ = self.read(key)
            values[name], place = self.read(value_node)
            places[name] = Place(key.start_mark.line + 1, place.inside)
        return values, Place(line, places)


def _refused(path: Path, line: int, message: str) -> ModelFileError:
    return ModelFileError([Problem(path, line, "file", message)])


def _not_yaml(path: Path, error: yaml.YAMLError) -> ModelFileError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    detail = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return _refused(path, mark.line + 1 if mark else 1, f"is not YAML: {detail}")
