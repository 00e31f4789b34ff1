"""Columns of the prediction log: Parquet files that gateways write of what they answered.

A file of a model has one row for each predicted row: the features by name, and these. Files are
in `<root>/<model>/date=YYYY-MM-DD/`, by the day (UTC) of the answer.
"""

from __future__ import annotations

from typing import Final

LOG_SCHEMA: Final = 1
"""Version of these columns, in the files' metadata under `LOG_SCHEMA_KEY`."""
LOG_SCHEMA_KEY: Final = "prediction_log_schema"

LOG_ID: Final = "sample_id"
"""`prediction_id` of the response; text."""
LOG_ROW: Final = "sample_row"
"""Index of the row in its request, from 0; int32."""
LOG_TIME: Final = "sample_time"
"""When the request was answered; timestamp in microseconds, UTC."""
LOG_ENTITY: Final = "sample_entity"
"""Whose row it is, as text; of several keys a JSON object in their order. Null where the request
named no entity."""
LOG_CLIENT: Final = "sample_client"
"""Keyed hash of the client id; null without one."""
LOG_AGE: Final = "sample_feature_age"
"""Age in seconds of the oldest stored feature value at the answer; float64, null without any."""
LOG_VERSION: Final = "sample_version"
LOG_VARIANT: Final = "sample_variant"
LOG_GENERATION: Final = "sample_generation"
"""Of the routing record by which the request was routed; int64."""
LOG_PREDICTION: Final = "sample_prediction"
"""The answer as text; of a regression too."""
LOG_SCORE: Final = "sample_score"
"""Largest probability of a classifier, or the value that a regression answered; float64."""
LOG_PROBABILITIES: Final = "sample_probabilities"
"""By class in the signature's order; list of float64, null without any."""
LOG_LATENCY: Final = "sample_latency"
"""Seconds from the checked request to its answer; float64, of the whole request."""
LOG_B_VERSION: Final = "sample_b_version"
"""Version of B that got a copy of the request; null where it was not mirrored."""
LOG_B_PREDICTION: Final = "sample_b_prediction"
LOG_B_SCORE: Final = "sample_b_score"
LOG_B_PROBABILITIES: Final = "sample_b_probabilities"
LOG_B_LATENCY: Final = "sample_b_latency"
"""These four as A's; null where B did not answer."""
LOG_B_FAILURE: Final = "sample_b_failure"
"""Why B did not answer its copy; null where it did or none was made."""

LOG_COLUMNS: Final = (
    LOG_ID,
    LOG_ROW,
    LOG_TIME,
    LOG_ENTITY,
    LOG_CLIENT,
    LOG_AGE,
    LOG_VERSION,
    LOG_VARIANT,
    LOG_GENERATION,
    LOG_PREDICTION,
    LOG_SCORE,
    LOG_PROBABILITIES,
    LOG_LATENCY,
    LOG_B_VERSION,
    LOG_B_PREDICTION,
    LOG_B_SCORE,
    LOG_B_PROBABILITIES,
    LOG_B_LATENCY,
    LOG_B_FAILURE,
)
