"""The SQL that joins predictions with outcomes; times are microseconds since the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from platform_assets.features.sources.casting import quoted
from platform_assets.model_spec import ModelSpec, Task
from serving_gateway.contract import DType

SENT: Final = """CREATE OR REPLACE TEMP VIEW sent AS
SELECT prediction_id AS id, row, {value} AS outcome, epoch_us(received_at) AS received
FROM (SELECT DISTINCT prediction_id, row, outcome, received_at FROM outcome_rows)"""
# Outcomes of other predictions are filtered out first: clients may send any number of them.
SENT_OF_LOG: Final = """CREATE OR REPLACE TEMP VIEW sent_of_log AS
SELECT prediction_id AS id, row, {value} AS outcome, epoch_us(received_at) AS received
FROM (
    SELECT DISTINCT prediction_id, row, outcome, received_at FROM outcome_rows
    SEMI JOIN log_rows ON prediction_id = sample_id
)"""

# In each of these the earliest outcome wins; of simultaneous ones, the lesser text.
FIRST_SENT: Final = """CREATE OR REPLACE TEMP TABLE first_sent AS
SELECT id, row, arg_min(outcome, place) AS outcome, min(received) AS received,
    arg_min(copies, place) - 1 AS duplicate, sum(copies) - arg_min(copies, place) AS contradicting
FROM (
    SELECT id, row, outcome, min(received) AS received, count(*) AS copies,
        ROW(min(received), outcome) AS place
    FROM sent_of_log WHERE {usable} GROUP BY id, row, outcome
) GROUP BY id, row"""
FIRST_OF_SOURCE: Final = """CREATE OR REPLACE TEMP TABLE first_of_source AS
SELECT entity, known_at, arg_min(outcome, number) AS outcome,
    arg_min(copies, number) - 1 AS duplicate, sum(copies) - arg_min(copies, number) AS contradicting
FROM (
    SELECT entity, known_at, outcome, min(number) AS number, count(*) AS copies
    FROM (SELECT entity, known_at, number, {value} AS outcome FROM source_rows) WHERE {usable}
    GROUP BY entity, known_at, outcome
) GROUP BY entity, known_at"""
JOIN_BY_TIME: Final = """ASOF LEFT JOIN first_of_source o
    ON p.entity = o.entity AND p.answered_at - $tolerance <= o.known_at"""
JOIN_BY_ENTITY: Final = "LEFT JOIN first_of_source o ON p.entity = o.entity"
MATCHED: Final = """CREATE OR REPLACE TEMP TABLE matched AS
WITH predictions AS (
    SELECT sample_id AS id, sample_row AS row, epoch_us(sample_time) AS answered_at,
        sample_entity AS entity, sample_version AS version, sample_score AS score,
        {answer} AS answer, sample_probabilities AS probabilities,
        sample_b_version AS b_version, sample_b_score AS b_score, {b_answer} AS b_answer
    FROM log_rows WHERE sample_id IS NOT NULL
        AND epoch_us(sample_time) >= $since AND epoch_us(sample_time) < $until
), of_source AS (
    SELECT p.id, p.row, o.known_at, o.outcome, o.duplicate, o.contradicting
    FROM predictions p {join}
    WHERE o.outcome IS NOT NULL
        AND ($within IS NULL OR o.known_at IS NULL OR o.known_at <= p.answered_at + $within)
)
SELECT p.* EXCLUDE (entity), p.entity AS entity, p.answered_at + $delay <= $now AS is_matured,
    coalesce(s.outcome, o.outcome) AS outcome,
    coalesce($delay > 0 AND coalesce(s.received, o.known_at) > p.answered_at + $delay, false)
        AS is_late,
    coalesce(s.duplicate, 0) + coalesce(o.duplicate, 0) AS duplicate,
    coalesce(s.contradicting, 0) + coalesce(o.contradicting, 0)
        + coalesce((s.outcome <> o.outcome)::INT, 0) AS contradicting
FROM predictions p
LEFT JOIN first_sent s ON p.id = s.id AND p.row = s.row
LEFT JOIN of_source o ON p.id = o.id AND p.row = o.row"""
KNOWN: Final = """CREATE OR REPLACE TEMP VIEW known AS SELECT * FROM matched
    WHERE is_matured AND outcome IS NOT NULL AND answer IS NOT NULL"""
COUNTS: Final = """SELECT count(*), count(*) FILTER (is_matured),
    count(outcome) FILTER (is_matured), count(outcome) FILTER (is_matured AND is_late),
    coalesce(sum(duplicate) FILTER (is_matured), 0),
    coalesce(sum(contradicting) FILTER (is_matured), 0) FROM matched"""
STRAY: Final = """SELECT count(*) FROM sent ANTI JOIN
    (SELECT sample_id AS id, sample_row AS row FROM all_log_rows) USING (id, row)
    WHERE {usable} AND received >= $since AND received < $until"""
UNUSABLE: Final = """SELECT count(*) FROM sent
    WHERE NOT coalesce({usable}, false) AND received >= $since AND received < $until"""


def value(column: str, spec: ModelSpec) -> str:
    """Return the SQL expression for the value of an outcome's text."""
    if spec.task is Task.REGRESSION:
        return f"try_cast({column} AS DOUBLE)"
    return f"lower({column})" if spec.target.answer_dtype is DType.BOOL else column


def answer(prefix: str, spec: ModelSpec) -> str:
    """Return the SQL expression for a version's answer, comparable with an outcome's `value`."""
    if spec.task is Task.REGRESSION:
        return f"{prefix}_score"
    return value(f"{prefix}_prediction", spec)


def finite(spec: ModelSpec) -> str:
    """Write in SQL whether a version answered with numbers, not with NaN or infinity."""
    if spec.task is Task.REGRESSION:
        return "isfinite(answer)"
    return "coalesce(isfinite(list_sum(probabilities)), true)"


def usable(spec: ModelSpec) -> str:
    """Return the SQL condition that `outcome` is a class or a number of the model."""
    if spec.task is Task.REGRESSION:
        return "isfinite(outcome)"
    if spec.target.answer_dtype is DType.BOOL:
        return "outcome IN ('false', 'true')"
    classes: Sequence[Any] = spec.target.class_names or spec.target.classes
    if not classes:
        return "outcome IS NOT NULL"
    return f"outcome IN ({', '.join(quoted(str(label)) for label in classes)})"
