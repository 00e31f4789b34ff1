"""Expand `${NAME}` in the sources of model files."""

from __future__ import annotations

import os
import re
from typing import Final

from dagster import ConfigurableResource
from pydantic import Field

SOURCE_PREFIX: Final = "SOURCE_"
"""How the environment variables begin that sources may name: others may hold secrets."""
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def hidden_variables(text: str) -> list[str]:
    """Return the `${NAME}` in `text` that no environment variable may stand for."""
    return [name for name in _VARIABLE.findall(text) if not name.startswith(SOURCE_PREFIX)]


class SourceError(Exception):
    """The source cannot be used; the message says what is wrong, `todo` what to do about it."""

    def __init__(self, message: str, todo: str) -> None:
        super().__init__(message)
        self.todo = todo


class ColumnsError(SourceError):
    """The source does not have the columns that the model file names."""


class SourceResource(ConfigurableResource["SourceResource"]):
    """Expands `${NAME}` in the paths and URLs of sources."""

    variables: dict[str, str] = Field(
        default={},
        description="Values of ${NAME} in the sources of model files; they come before those of "
        "environment variables, which have to begin with SOURCE_.",
    )

    def expand(self, text: str) -> str:
        """Return `text` with every `${NAME}` replaced; SourceError for one without a value."""

        def expanded(match: re.Match[str]) -> str:
            name = match[1]
            value = self.variables.get(name)
            if not value and hidden_variables(match[0]):
                raise SourceError(
                    f"the source {text} names the variable {name}, which sources may not see",
                    f"name variables of sources {SOURCE_PREFIX}..., and run again",
                )
            value = value or os.environ.get(name)
            if not value:
                raise SourceError(
                    f"the source {text} names the variable {name}, which is not set",
                    f"set {name} in the environment of the Dagster code location and run again",
                )
            return value

        return _VARIABLE.sub(expanded, text)
