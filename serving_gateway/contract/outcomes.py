"""Outcomes: the true values of predictions, as clients send them and as files keep them.

Gateways write those of a model to Parquet files in `<root>/<model>/outcomes/date=YYYY-MM-DD/`, by
the day (UTC) on which they were received, beside the prediction log; one row for each outcome.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from serving_gateway.contract.names import MAX_BATCH_SIZE
from serving_gateway.contract.struct import Struct

OUTCOMES_FOLDER: Final = "outcomes"
"""Folder of a model's outcomes, inside the one of its prediction log."""
OUTCOME_SCHEMA: Final = 1
"""Version of these columns, in the files' metadata under `OUTCOME_SCHEMA_KEY`."""
OUTCOME_SCHEMA_KEY: Final = "outcome_schema"

OUTCOME_ID: Final = "prediction_id"
OUTCOME_ROW: Final = "row"
"""Index of the predicted row in its request, from 0; int32."""
OUTCOME_VALUE: Final = "outcome"
"""The true value as text: a class as its name, a number as its shortest text, `true`, `false`."""
OUTCOME_OBSERVED: Final = "observed_at"
"""When the truth was known, as the caller says; timestamp in microseconds, UTC; may be null."""
OUTCOME_RECEIVED: Final = "received_at"
"""When the gateway received it; timestamp in microseconds, UTC. Outcomes of one call are a
microsecond apart, so that their order is known."""

OUTCOME_COLUMNS: Final = (
    OUTCOME_ID,
    OUTCOME_ROW,
    OUTCOME_VALUE,
    OUTCOME_OBSERVED,
    OUTCOME_RECEIVED,
)

MAX_OUTCOMES: Final = 10_000
"""Most outcomes of one call."""
_MAX_TEXT: Final = 1_000

PredictionId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
OutcomeValue = bool | int | float | Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_TEXT)]


class Outcome(Struct, frozen=True, forbid_unknown_fields=True):
    """The true value of one predicted row; `observed_at` is RFC 3339 with an offset."""

    prediction_id: PredictionId
    outcome: OutcomeValue
    row: Annotated[int, msgspec.Meta(ge=0, lt=MAX_BATCH_SIZE)] = 0
    observed_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class OutcomesRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /models/{model_name}/outcomes`."""

    outcomes: Annotated[list[Outcome], msgspec.Meta(min_length=1, max_length=MAX_OUTCOMES)]


class OutcomesResponse(Struct, frozen=True):
    """How many outcomes are in a file now, for good."""

    model_name: str
    accepted: int
