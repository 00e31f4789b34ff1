"""Records of live quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

CONFIDENCE: Final = 0.95
ANY_TIME: Final = "hold while they are watched"
"""Kind of bounds: a confidence sequence, valid over all looks together."""
FIXED_SAMPLE: Final = "hold for one look (jackknife, fixed sample)"
"""Kind of bounds: valid for a single look; repeated looks sooner or later violate them."""


class QualityError(Exception):
    """The files cannot be read as a prediction log or as outcomes; the message says why."""


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """The numbers of predicted rows and outcomes in a period."""

    predictions: int = 0
    """Logged rows."""
    matured: int = 0
    """Logged rows whose outcome is final by now."""
    answered: int = 0
    """Matured rows whose outcome is known."""
    late: int = 0
    """Of these, outcomes received after the row had matured."""
    duplicate: int = 0
    """Further outcomes of the same rows, with the same value."""
    contradicting: int = 0
    """Further outcomes of the same rows, with another value; the first one counts."""
    unmatched: int = 0
    """Outcomes received in the period for rows that are not in the log."""
    unusable: int = 0
    """Outcomes received in the period that are not a class or a number of the model."""
    files_set_aside: int = 0
    """Unusable files of the period, whose rows are missing."""

    @property
    def coverage(self) -> float | None:
        """Share of the matured rows whose outcome is known; None without matured rows."""
        return self.answered / self.matured if self.matured else None


@dataclass(frozen=True, slots=True)
class VersionQuality:
    """A metric of one version on matured rows, with 95 % bounds; NaN where undetermined."""

    version: int
    rows: int
    value: float
    low: float
    high: float
    bounds: str
    """`ANY_TIME` or `FIXED_SAMPLE`."""
    measured_rows: int
    """Rows of which the metric was computed: all, or a share of them that is chosen by their ids
    where there are very many."""
    not_finite: int = 0
    """Rows that the version answered with a NaN or an infinity, which no metric counts."""


@dataclass(frozen=True, slots=True)
class QualityPoint:
    """The quality of a version on one day (ISO 8601); NaN or infinite where undetermined."""

    day: str
    version: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OfflineEstimate:
    """The metric of a version on its held-out rows.

    `scale` is the range of their true values, which bounds the errors of a regression; NaN for a
    classifier.
    """

    value: float
    low: float
    high: float
    scale: float


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The quality of a model on the predictions of one day."""

    model_name: str
    day: str
    metric: str
    higher_is_better: bool
    floor: float
    counts: OutcomeCounts
    versions: tuple[VersionQuality, ...] = ()
    """The versions with matured rows of known outcome, lowest number first."""
    offline: Mapping[int, OfflineEstimate | str] = field(default_factory=dict)
    """By version; the reason where it is unknown."""
