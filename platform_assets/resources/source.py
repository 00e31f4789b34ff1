"""Expand `${NAME}` in the sources of model files."""

from __future__ import annotations

import os
import re
from typing import Final

from dagster import ConfigurableResource
from pydantic import Field

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class SourceError(Exception):
    """The source is unusable; the message says what is wrong, `todo` what to do about it."""

    def __init__(self, message: str, todo: str) -> None:
        super().__init__(message)
        self.todo = todo


class ColumnsError(SourceError):
    """The source lacks the columns that the model file names."""


class QueryError(SourceError):
    """A query over existing files cannot be run."""


class SourceResource(ConfigurableResource["SourceResource"]):
    """Expands `${NAME}` in the paths and URLs of sources."""

    variables: dict[str, str] = Field(
        default={},
        description="Values of ${NAME} in the sources of model files; they come before those of "
        "environment variables, which have to begin with SOURCE_.",
    )

    def expand(self, text: str) -> str:
        """Return `text` with every `${NAME}` replaced; SourceError for an unset one."""

        def expanded(match: re.Match[str]) -> str:
            name = match[1]
            # A source may only name variables that begin with SOURCE_.
            value = self.variables.get(name) or os.environ.get(name)
            if not value:
                raise SourceError(
                    f"the source {text} names the variable {name}, which is not set",
                    f"set {name} in the environment of the Dagster code location and run again",
                )
            return value

        return _VARIABLE.sub(expanded, text)
