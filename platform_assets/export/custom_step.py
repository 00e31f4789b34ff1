"""How a user's pipeline is distinguished from one of the platform's."""

from __future__ import annotations

from typing import Any, Final

CUSTOM_STEP: Final = "pipeline"
"""Name of the only step of a pipeline that wraps a user's pipeline."""


def is_custom(estimator: Any) -> bool:
    """Whether an estimator is a user's pipeline in its wrapper."""
    return [name for name, _ in getattr(estimator, "steps", ())] == [CUSTOM_STEP]
