"""Pages of the prediction log as Arrow columns.

Tensors and answers are joined and read as Arrow buffers, so that most of the work is done without
the interpreter, which the event loop needs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from serving_gateway.contract import LOG_COLUMNS, LOG_TIME, DType, Feature, Signature
from serving_gateway.telemetry.log_answers import AnswerColumns, AnsweredRows, answer_columns
from serving_gateway.telemetry.log_elements import elements
from serving_gateway.telemetry.log_entities import entity_text
from serving_gateway.telemetry.log_page import NO_ANSWER, Page, PagePart
from serving_gateway.telemetry.log_rows import RowSpreader, record_fields
from serving_gateway.telemetry.prediction_log import VariantLog

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
    log: VariantLog, part: PagePart, clock: float, hash_client: Callable[[str], str | None]
) -> list[tuple[date, pa.RecordBatch]]:
    """The batches of `record_batch`, split by the day (UTC) of the answers."""
    batch = record_batch(log, part, clock, hash_client)
    days = pc.divide(batch.column(LOG_TIME).cast(pa.int64()), _DAY_MICROSECONDS)
    dates = pc.unique(days).to_pylist()
    parts = [batch] if len(dates) == 1 else [batch.filter(pc.equal(days, day)) for day in dates]
    return [(_EPOCH + timedelta(days=day), part) for day, part in zip(dates, parts, strict=True)]


def record_batch(
    log: VariantLog, part: PagePart, clock: float, hash_client: Callable[[str], str | None]
) -> pa.RecordBatch:
    """Requests as columns: the features, then `LOG_COLUMNS`, one row per row predicted.

    `clock` is the offset from `perf_counter` to seconds since the epoch. `ValueError`, which
    Arrow's errors are too, for invalid bytes.
    """
    fields = record_fields(part.records, "qqqqqddd")
    numbers, counts, ordinals, firsts, clients, sent, seconds, as_of = fields
    page, rows = part.page, RowSpreader(counts)
    answered = AnsweredRows(page.answers, ordinals, firsts, rows)
    signature, at = log.signature, pc.add(pc.add(sent, seconds), clock)
    ids = pc.binary_join_element_wise(log.model.id_prefix, numbers.cast(pa.string()), "-")
    arrays = [
        rows.spread(ids),
        rows.index(),
        rows.spread(_time(at)),
        _entities(part, counts, rows.count, signature.join_keys),
        rows.spread(_clients(page, clients, hash_client)),
        rows.spread(pc.subtract(at, _nan_to_null(as_of))),
        rows.constant(log.version, pa.int64()),
        rows.constant(log.variant, pa.string()),
        rows.constant(log.generation, pa.int64()),
        *answer_columns(answered),
        rows.spread(seconds),
        *_mirrored_columns(part, rows),
    ]
    tensors = [answer[0] for answer in answered.answers]
    features = feature_columns(signature, tensors, answered.count)
    names = [feature.name for feature in signature.features]
    return pa.record_batch([*map(answered.select, features), *arrays], names=[*names, *LOG_COLUMNS])


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
    return [_logical(pc.list_element(lists, at), feature) for at, feature in enumerate(features)]


def _logical(column: pa.Array, feature: Feature) -> pa.Array:
    """A tensor's column as the feature's own type; NaN and the empty text mean null."""
    if feature.nullable:
        is_text = feature.dtype is DType.BYTES
        is_missing = pc.equal(column, "") if is_text else pc.is_nan(column)
        column = pc.if_else(is_missing, pa.scalar(None, column.type), column)
    return column.cast(_LOGICAL[feature.dtype])


def _time(answered: pa.Array) -> pa.Array:
    return pc.multiply(answered, 1e6).cast(pa.int64(), safe=False).cast(_TIME)


def _nan_to_null(numbers: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def _clients(page: Page, clients: pa.Array, hash_client: Callable[[str], str | None]) -> pa.Array:
    hashes = [None if client is None else hash_client(client) for client in page.clients]
    return pa.array(hashes, pa.string()).take(clients)


def _entities(part: PagePart, counts: pa.Array, rows: int, keys: Sequence[str]) -> pa.Array:
    """The entity of each row as text; null where the request named none."""
    entities = part.page.entities
    if not entities:
        return pa.nulls(rows, pa.string())
    texts: list[str | None] = []
    for at, count in enumerate(counts.to_pylist(), part.start):
        named = entities.get(at)
        texts += [None] * count if named is None else [entity_text(one, keys) for one in named]
    return pa.array(texts, pa.string())


def _mirrored_columns(part: PagePart, rows: RowSpreader) -> list[pa.Array]:
    """B's columns, null for requests that were not mirrored, and where B did not answer."""
    page = part.page
    if not page.copies:
        kinds = pa.int64(), pa.float64(), pa.string()
        version, seconds, failure = [pa.nulls(rows.count, kind) for kind in kinds]
        return [version, *AnswerColumns.nulls(rows.count), seconds, failure]
    versions, ordinals, firsts, latencies = record_fields(part.copies, "qqqd")
    ordinals = pc.if_else(pc.equal(ordinals, NO_ANSWER), None, ordinals)
    answered = AnsweredRows(page.copy_answers, ordinals, firsts, rows)
    failures = [page.failures.get(at) for at in range(part.start, part.stop)]
    return [
        rows.spread(versions),
        *(answer_columns(answered) if answered.answers else AnswerColumns.nulls(rows.count)),
        rows.spread(_nan_to_null(latencies)),
        rows.spread(pa.array(failures, pa.string())),
    ]
