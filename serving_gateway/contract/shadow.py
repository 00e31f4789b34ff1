"""Body of `GET /shadow`: how variant B's answers to mirrored requests compare with A's."""

from __future__ import annotations

from typing import Any

from serving_gateway.contract.struct import Struct


class ShadowSide(Struct, frozen=True):
    """One version of a pairing."""

    model_name: str
    version: int
    run_id: str


Pairing = tuple[ShadowSide, ShadowSide]
"""A's side, B's side."""


class Proportion(Struct, frozen=True):
    """A share of the rows, with Wilson's bounds at 95 %."""

    value: float
    low: float
    high: float


class MeanDifference(Struct, frozen=True):
    """A mean with its bounds at 95 %, and the largest value."""

    value: float
    low: float
    high: float
    largest: float


class Disagreement(Struct, frozen=True):
    """A row that the two versions label differently."""

    row: Any
    """As the client sent it."""
    prediction_a: Any
    prediction_b: Any
    probabilities_a: list[float] | None
    probabilities_b: list[float] | None


class ShadowReport(Struct, frozen=True):
    """Body of `GET /shadow`: the comparisons that this replica made for the present pairing."""

    replica: str
    a: ShadowSide | None
    b: ShadowSide | None
    """Null while B has no version: nothing is compared."""
    since: str | None
    """When the pairing began here; null before the first copy."""
    requests: int
    """Mirrored requests that B answered."""
    rows: int
    rows_agreed: int
    failed: int
    """Copies that B could not answer."""
    dropped: int
    """Copies that were not made, because too many waited or B was not there."""
    agreement: Proportion | None
    probability_difference: MeanDifference | None
    """Per row, the largest difference of a class's probability; null without probabilities."""
    latency_difference_seconds: MeanDifference | None
    """Per request, B's latency minus A's."""
    examples: tuple[Disagreement, ...]
    """The newest rows that were labelled differently."""
    examples_withheld: bool = False
    """Whether there are examples that this caller may not see: they hold clients' data."""
