"""The source of the true values of a model's predictions, and when they are final."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StrictStr, model_validator
from pydantic.dataclasses import dataclass
from pydantic.json_schema import SkipJsonSchema

from platform_assets.model_spec.columns import EventTime
from platform_assets.model_spec.fields import CONFIG, LOADER_ONLY, Duration, reject
from platform_assets.model_spec.labels import KeyedTable, LabelKeys
from platform_assets.model_spec.source import Source

LABELS: Final = "labels"
"""Value of `outcomes` in a model file whose label table has the outcomes."""


@dataclass(frozen=True, config=CONFIG)
class Outcomes:
    """The true values of predictions, joined with the prediction log to measure live quality.

    Those that clients send to the gateway always count; a source is joined by keys and time.
    """

    source: Source | None = None
    """The rows with outcomes; without it only outcomes that clients send count. `outcomes: labels`
    reads the source of `labels`."""
    entities: LabelKeys = ()
    """The model's keys, if their columns in the source have other names: a list of names, or a
    mapping from the key to the column."""
    outcome: Annotated[StrictStr, Field(min_length=1)] | None = None
    """The column with the true value; by default that of `target`."""
    event_time: Annotated[EventTime | None, Field(validation_alias="event_timestamp")] = None
    """The time of an outcome: a prediction gets the first one of its entity that is not before it.
    Omit it where an entity has one row, whose outcome then counts for all its predictions."""
    within: Duration | None = None
    """How long after a prediction that first outcome may be; by default `outcome_delay`, without
    which any later one counts. Needs `event_timestamp`."""
    tolerance: Duration | None = None
    """How long before its prediction an outcome's time may be, for example when it is the time of
    the predicted event; by default not at all. Needs `event_timestamp`."""
    outcome_delay: Duration | None = None
    """How long after a prediction its outcome is final; the prediction is then matured, and
    counts. By default that of `labels`, without which a prediction is matured at once."""
    of_labels: Annotated[SkipJsonSchema[bool], Field(validation_alias=f"{LOADER_ONLY}labels")] = (
        False
    )
    """Whether the label table has the outcomes."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        of_source = {
            "entities": bool(self.entities),
            "outcome": self.outcome is not None,
            "event_timestamp": self.event_time is not None,
        }
        of_time = {"within": self.within, "tolerance": self.tolerance}
        if self.source is None and not self.of_labels:
            message = "describes the rows of a source: give `source`, or remove it"
            is_given = of_source | {name: value is not None for name, value in of_time.items()}
            reject(((name,), message) for name, there in is_given.items() if there)
            if self.outcome_delay is None:
                raise ValueError(
                    "is empty: give `source`, or `outcome_delay` for outcomes that clients send; "
                    "without either remove it, as clients may send outcomes of any model"
                )
        elif self.event_time is None and not self.of_labels:
            message = "needs `event_timestamp`: without times an entity has one outcome"
            reject(((name,), message) for name, value in of_time.items() if value is not None)
        if self.source is not None and self.source.feast_view is not None:
            reject([(("source", "feast_view"), "is for feature tables: outcomes are elsewhere")])
        return self


OutcomesInput = Literal["labels"] | Outcomes
"""Names of the fields in a model file."""


class OutcomeTable(KeyedTable):
    """The rows of a source with outcomes, as they are read; those of an entity may contradict."""


@plain_dataclass(frozen=True, slots=True)
class OutcomeRule:
    """Which outcome belongs to a prediction, and since when it is final."""

    delay: timedelta
    """After the answer, until the prediction is matured."""
    within: timedelta | None
    """After the answer, in which the first outcome of a source must be; None: any time."""
    tolerance: timedelta
