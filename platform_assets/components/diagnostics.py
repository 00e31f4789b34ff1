"""Problems of a model file, with their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FieldPath = tuple[object, ...]
"""Keys and list indices from the root of a file, or from its `attributes`, to a field."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A problem in a line of a model file; `line` counts from 1."""

    file: Path
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.message}"


class ModelFileError(Exception):
    """A model file that cannot be used; `problems` has at least one entry."""

    def __init__(self, problems: Sequence[Diagnostic]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def field_name(path: FieldPath) -> str:
    """Format a path for display: `features[2].type`."""
    name = ""
    for part in path:
        if isinstance(part, int) and not isinstance(part, bool):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else str(part)
    return name
