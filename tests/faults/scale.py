"""How large a case is: its quick form in CI, its long one by `make faults`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, TypeVar

FORM: Final = "FAULTS"
"""Environment variable: `long` for the long form."""
FIGURES: Final = "FAULTS_FIGURES"
"""Environment variable: folder that takes the figures of the long form."""
_T = TypeVar("_T", int, float, str)


def scale(quick: _T, long: _T) -> _T:
    """The size of a case in the present form."""
    return long if os.environ.get(FORM) == "long" else quick


def report(case: str, **figures: Any) -> None:
    """Keep the figures that a case has seen, beside those of its other tests."""
    if folder := os.environ.get(FIGURES):
        path = Path(folder, f"{case}.json")
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(known | figures), encoding="utf-8")
