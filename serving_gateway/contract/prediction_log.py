"""Columns of the prediction log, the Parquet files that gateways write of answered requests.

A file of a model has one row for each predicted row: the features by name, and these. Files are
in `<root>/<model>/date=YYYY-MM-DD/`, by the day (UTC) of the answer.
"""

from __future__ import annotations

import hmac
from datetime import date
from typing import Final

LOG_DAY: Final = "date="
"""How the name of a day's folder begins; the day in ISO 8601 follows."""
UNREADABLE_SUFFIX: Final = ".unreadable"
"""Added to the name of a file that could not be read, so that no reader meets it again."""
LOG_KEY_FILE: Final = "prediction-log-key"
"""File of a gateway's state directory with the key of client ids' hashes, unless one is set."""
_HASH_CHARACTERS: Final = 32

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
"""Keyed hash of the client id (`client_hash`); null without one."""
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


def log_day(day: date) -> str:
    """Name of the folder of a day (UTC)."""
    return f"{LOG_DAY}{day.isoformat()}"


def client_hash(client_id: str, key: bytes) -> str:
    """What the log has of a client id: half of its HMAC-SHA256 (RFC 2104), in hexadecimal."""
    return hmac.digest(key, client_id.encode(), "sha256").hex()[:_HASH_CHARACTERS]
