"""Entries of the prediction log as Arrow columns.

Tensors and answers are joined and read as Arrow buffers, so that most of the work is done without
the interpreter, which the event loop needs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import accumulate
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from serving_gateway.contract import LOG_COLUMNS, LOG_TIME, DType, Feature, Signature
from serving_gateway.telemetry.log_answers import AnswerColumns, answer_columns
from serving_gateway.telemetry.log_elements import elements, list_element
from serving_gateway.telemetry.log_entities import entity_text
from serving_gateway.telemetry.prediction_log import Entry, MirroredEntry, VariantLog

_LOGICAL: Final = {
    DType.FP32: pa.float32(),
    DType.FP64: pa.float64(),
    DType.INT64: pa.int64(),
    DType.BOOL: pa.bool_(),
    DType.BYTES: pa.string(),
}
_TIME: Final = pa.timestamp("us", tz="UTC")


_DAY_MICROSECONDS: Final = 86_400_000_000
_EPOCH: Final = date(1970, 1, 1)


def record_batches(
    log: VariantLog,
    entries: Sequence[Entry | MirroredEntry],
    clock: float,
    hash_client: Callable[[str], str | None],
) -> list[tuple[date, pa.RecordBatch]]:
    """The batches of `record_batch`, split by the day (UTC) of the answers."""
    batch = record_batch(log, entries, clock, hash_client)
    days = pc.divide(batch.column(LOG_TIME).cast(pa.int64()), _DAY_MICROSECONDS)
    found = pc.unique(days).to_pylist()
    parts = [batch] if len(found) == 1 else [batch.filter(pc.equal(days, day)) for day in found]
    return [(_EPOCH + timedelta(days=day), part) for day, part in zip(found, parts, strict=True)]


def record_batch(
    log: VariantLog,
    entries: Sequence[Entry | MirroredEntry],
    clock: float,
    hash_client: Callable[[str], str | None],
) -> pa.RecordBatch:
    """Entries of one kind as columns: the features, then `LOG_COLUMNS`, one row per row predicted.

    `clock` is what `perf_counter` lacks to the seconds since the epoch. `ValueError` and Arrow's
    errors, which are such, for bytes that are not what they should be.
    """
    _, numbers, counts, sent, seconds, tensors, clients, entities, as_of, *answers = zip(
        *entries, strict=True
    )
    rows = _RowsOfRequests(counts)
    answered = pc.add(pa.array(sent, pa.float64()), pa.array(seconds, pa.float64()))
    answered = pc.add(answered, clock)
    signature = log.signature
    ids = pc.binary_join_element_wise(
        log.model.id_prefix, pa.array(numbers, pa.int64()).cast(pa.string()), "-"
    )
    a = answer_columns(answers[0], answers[1], answers[2], counts)
    arrays = [
        rows.spread(ids),
        rows.index(),
        rows.spread(_time(answered)),
        _entities(entities, counts, signature.join_keys),
        rows.spread(_clients(clients, hash_client)),
        rows.spread(pc.subtract(answered, pa.array(as_of, pa.float64()))),
        rows.constant(log.version, pa.int64()),
        rows.constant(log.variant, pa.string()),
        rows.constant(log.generation, pa.int64()),
        *a,
        rows.spread(pa.array(seconds, pa.float64())),
        *_mirrored_columns(answers[3:], counts, rows),
    ]
    features = feature_columns(signature, tensors, rows.count)
    names = [feature.name for feature in signature.features]
    return pa.record_batch([*features, *arrays], names=[*names, *LOG_COLUMNS])


class _RowsOfRequests:
    """Repeats what requests have once for each of their rows."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.count = sum(counts)
        self._parents: pa.Array | None = None
        if self.count != len(counts):
            offsets = pa.array([0, *accumulate(counts)], pa.int32())
            lists = pa.ListArray.from_arrays(offsets, pa.nulls(self.count, pa.bool_()))
            self._parents = pc.list_parent_indices(lists)
            self._first = offsets

    def spread(self, column: pa.Array) -> pa.Array:
        """A column of requests as one of rows."""
        return column if self._parents is None else column.take(self._parents)

    def index(self) -> pa.Array:
        """The index of each row in its request."""
        if self._parents is None:
            return self.constant(0, pa.int32())
        place = pa.array(range(self.count), pa.int32())
        return pc.subtract(place, self._first.take(self._parents))

    def constant(self, value: object, kind: pa.DataType) -> pa.Array:
        """The same value in each row."""
        return pa.repeat(pa.scalar(value, kind), self.count)


def feature_columns(
    signature: Signature, tensors: Sequence[Sequence[bytes]], rows: int
) -> list[pa.Array]:
    """The features of `rows` rows, from the tensors of their requests; null where missing."""
    features = signature.features
    if signature.packed_input is None:
        return [
            _logical(elements([one[at] for one in tensors], feature.tensor_dtype), feature)
            for at, feature in enumerate(features)
        ]
    flat = elements([one[0] for one in tensors], features[0].tensor_dtype)
    if len(flat) != rows * len(features):
        raise ValueError(f"{len(flat)} elements are not {rows} rows of {len(features)}")
    lists = pa.FixedSizeListArray.from_arrays(flat, len(features))
    return [_logical(list_element(lists, at), one) for at, one in enumerate(features)]


def _logical(column: pa.Array, feature: Feature) -> pa.Array:
    """A tensor's column as the feature's own type; NaN and the empty text mean null."""
    if feature.nullable:
        is_text = feature.dtype is DType.BYTES
        is_missing = pc.equal(column, "") if is_text else pc.is_nan(column)
        column = pc.if_else(is_missing, pa.scalar(None, column.type), column)
    return column.cast(_LOGICAL[feature.dtype])


def _time(answered: pa.Array) -> pa.Array:
    return pc.multiply(answered, 1e6).cast(pa.int64(), safe=False).cast(_TIME)


def _clients(clients: Sequence[str | None], hash_client: Callable[[str], str | None]) -> pa.Array:
    # Most requests are of a few clients, whose hashes cost more than all else of a row.
    column = pa.array(clients, pa.string()).dictionary_encode()
    hashes = [hash_client(one) for one in column.dictionary.to_pylist()]
    return pa.array(hashes, pa.string()).take(column.indices)


def _entities(
    entities: Sequence[Sequence[Any] | None], counts: Sequence[int], keys: Sequence[str]
) -> pa.Array:
    """By row, its entity as text; null where the request named none."""
    if not any(entities):
        return pa.nulls(sum(counts), pa.string())
    texts: list[str | None] = []
    for whose, count in zip(entities, counts, strict=True):
        texts += [None] * count if whose is None else [entity_text(one, keys) for one in whose]
    return pa.array(texts, pa.string())


def _mirrored_columns(
    answers: Sequence[Sequence[Any]], counts: Sequence[int], rows: _RowsOfRequests
) -> list[pa.Array]:
    """B's columns, null for requests that were not mirrored, and where B did not answer."""
    empty = [pa.nulls(rows.count, kind) for kind in AnswerColumns.types()]
    if not answers:
        missing = pa.int64(), pa.float64(), pa.string()
        version, seconds, failure = [pa.nulls(rows.count, kind) for kind in missing]
        return [version, *empty, seconds, failure]
    versions, latencies, bodies, starts, places, failures = answers
    given = [at for at, body in enumerate(bodies) if body is not None]
    columns: Sequence[pa.Array] = empty
    if given:
        chosen: list[list[Any]]
        chosen = [[column[at] for at in given] for column in (bodies, starts, places, counts)]
        columns = answer_columns(*chosen)
        if len(given) < len(bodies):
            columns = _insert_null_rows(columns, bodies, counts)
    return [
        rows.spread(pa.array(versions, pa.int64())),
        *columns,
        rows.spread(pa.array(latencies, pa.float64())),
        rows.spread(pa.array(failures, pa.string())),
    ]


def _insert_null_rows(
    columns: Sequence[pa.Array], bodies: Sequence[object], counts: Sequence[int]
) -> list[pa.Array]:
    """Columns of the requests that have an answer, with null rows for the others."""
    places: list[int | None] = []
    at = 0
    for body, count in zip(bodies, counts, strict=True):
        places += [None] * count if body is None else range(at, at + count)
        at += 0 if body is None else count
    indices = pa.array(places, pa.int64())
    return [column.take(indices) for column in columns]
