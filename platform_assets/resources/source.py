"""What model files leave open about their sources: the values of `${NAME}`."""

from __future__ import annotations

import os
import re
from typing import Final

from dagster import ConfigurableResource
from pydantic import Field

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


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
        "environment variables of the same name.",
    )

    def expand(self, text: str) -> str:
        """Return `text` with every `${NAME}` replaced.

        Raises:
            SourceError: a name has no value, or an empty one.
        """

        def value(match: re.Match[str]) -> str:
            name = match[1]
            found = self.variables.get(name) or os.environ.get(name)
            if not found:
                raise SourceError(
                    f"the source {text} names the variable {name}, which is not set",
                    f"set {name} in the environment of the Dagster code location and run again",
                )
            return found

        return _VARIABLE.sub(value, text)
