"""How much of the past is kept, as the environment says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from platform_assets.model_spec import ModelSpec

_MEASURED: Final = frozenset({"sample", "outcome"})
_MOST: Final = 36_500
_UNTIL_MEASURED: Final = 3
"""Days: of a delay the begun one counts, the prediction may be of the first minute of its day, and
the schedule measures in the course of the next one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Each field is set by the variable `MAINTENANCE_<FIELD>`; 0 days keep everything."""

    run_days: int = 90
    """Dagster runs, with their events and what they printed."""
    mlflow_days: int = 180
    """MLflow runs, with the logged models of versions."""
    proof_days: int = 365
    sample_days: int = 30
    report_days: int = 90
    prediction_days: int = 30
    keep: int = 20
    """The newest of each kind, which stay at any age."""

    @property
    def outcome_days(self) -> int:
        """Outcomes go with the predictions that they are about."""
        return self.sample_days

    def days(self, kind: str, spec: ModelSpec) -> int:
        """Return the days of a kind of files; predictions stay until they were measured."""
        days: int = getattr(self, f"{kind}_days")
        if kind not in _MEASURED or not days:
            return days
        rule = spec.outcome_rule
        matured = max(rule.delay, rule.within or timedelta())
        return max(days, matured // timedelta(days=1) + _UNTIL_MEASURED)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Limits:
        """Read the variables; an empty one counts as not set.

        Raises:
            ValueError: one is not a whole number from 0 (from 1 for `keep`) to 36,500.
        """
        found = {}
        for field in fields(cls):
            variable = f"MAINTENANCE_{field.name.upper()}"
            text, least = environ.get(variable) or str(field.default), int(field.name == "keep")
            if (
                not text.isdecimal()
                or len(text) > len(str(_MOST))
                or not least <= int(text) <= _MOST
            ):
                forever = "; 0 days keep everything" if least == 0 else ""
                raise ValueError(
                    f"{variable}={text!r}: give a whole number from {least} to {_MOST}, or none"
                    f"{forever}"
                )
            found[field.name] = int(text)
        return cls(**found)


def cutoff(now: datetime, days: int) -> datetime | None:
    """Return the time before which records may go; None where all are kept."""
    return now - timedelta(days=days) if days else None
