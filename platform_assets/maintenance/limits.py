"""How long records are kept, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from platform_assets.model_spec import ModelSpec

_MEASURED: Final = frozenset({"sample", "outcome"})
_MOST: Final = 36_500
_UNTIL_MEASURED: Final = 3
"""Extra days: a delay's partial day counts, a prediction may be from the first minute of its day,
and the schedule measures in the course of the next one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Each field is set by the variable `MAINTENANCE_<FIELD>`; 0 days keeps everything."""

    run_days: int = 90
    """Dagster runs, with their events and output."""
    mlflow_days: int = 180
    """MLflow runs, with the logged models of versions."""
    proof_days: int = 365
    sample_days: int = 30
    report_days: int = 90
    prediction_days: int = 30
    keep: int = 20
    """Number of newest records of each kind that stay at any age."""

    @property
    def outcome_days(self) -> int:
        """Days of outcomes, which are deleted with their predictions."""
        return self.sample_days

    def days(self, kind: str, spec: ModelSpec) -> int:
        """Return the days of a kind of files; predictions stay until they have been measured."""
        days: int = getattr(self, f"{kind}_days")
        if kind not in _MEASURED or not days:
            return days
        rule = spec.outcome_rule
        matured = max(rule.delay, rule.within or timedelta())
        return max(days, matured // timedelta(days=1) + _UNTIL_MEASURED)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Limits:
        """Read the variables; an empty one counts as unset.

        Raises:
            ValueError: one is not a whole number from 0 (from 1 for `keep`) to 36,500.
        """
        values = {}
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
            values[field.name] = int(text)
        return cls(**values)


def cutoff(now: datetime, days: int) -> datetime | None:
    """Return the time before which records may be deleted; None if all are kept."""
    return now - timedelta(days=days) if days else None
