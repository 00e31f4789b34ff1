"""How a pipeline of the user's is told from one of the platform's."""

from __future__ import annotations

from typing import Any, Final

CUSTOM_STEP: Final = "pipeline"
"""The one step of a pipeline that leaves everything to one of the user's."""


def is_custom(estimator: Any) -> bool:
    """Whether an estimator is a pipeline of the user's, in its wrapper."""
    return [name for name, _ in getattr(estimator, "steps", ())] == [CUSTOM_STEP]
