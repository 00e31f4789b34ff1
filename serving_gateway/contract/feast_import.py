"""How Feast is imported, where pipeline or gateway use it."""

from __future__ import annotations

import contextlib
from typing import Any

__all__ = ["import_feast"]


def import_feast() -> None:
    """Import Feast without checks of its own arguments, in a quarter of the time.

    typeguard compiles the methods of Feast's classes anew when they are imported, which takes
    more than three seconds of a core in each process.
    """
    with contextlib.suppress(ImportError):
        import typeguard

        checked: Any = typeguard.typechecked
        typeguard.typechecked = _unchecked
        try:
            import feast  # noqa: F401
        finally:
            typeguard.typechecked = checked


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _unchecked
