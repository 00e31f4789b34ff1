"""What the rows of an online store mean: unknown, expired, incomplete or found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from serving_gateway.features.service_plan import Row, ViewRead
from serving_gateway.features.types import LookupRequest, LookupResult, Status


def judge_rows(
    request: LookupRequest,
    reads: Sequence[ViewRead],
    rows: Sequence[Sequence[Row]],
    now: float | None = None,
) -> list[LookupResult]:
    """Join the rows of all views and judge each entity.

    Args:
        request: what was read.
        reads: the views.
        rows: per view, one row for each id.
        now: seconds since the epoch, to tell an age by; None takes the clock's.
    """
    now = time.time() if now is None else now
    if len(reads) != 1:
        return [_judge(request, reads, own, now) for own in zip(*rows, strict=True)]
    # One view: its values are the result's, and usually all are there and fresh.
    ttl = reads[0].view.ttl_seconds
    oldest = now - ttl if ttl > 0 else 0.0
    found = Status.FOUND
    return [
        LookupResult(found, row[1], (), row[0])
        if row[0] and row[0] >= oldest and row[1] and None not in row[1]
        else _judge(request, reads, (row,), now)
        for row in rows[0]
    ]


def _judge(
    request: LookupRequest, reads: Sequence[ViewRead], rows: Sequence[Row], now: float
) -> LookupResult:
    names = request.names
    values: list[Any] = [None] * len(names)
    oldest: float | None = None
    is_expired = False
    for read, (observed_at, row) in zip(reads, rows, strict=True):
        is_empty = row is None or all(value is None for value in row)
        if observed_at is None or (is_empty and observed_at == 0):
            continue
        oldest = observed_at if oldest is None else min(oldest, observed_at)
        if 0 < read.view.ttl_seconds < now - observed_at:
            is_expired = True
        elif row is not None:
            for position, value in zip(read.positions, row, strict=True):
                values[position] = value
    if oldest is None:
        return LookupResult(Status.UNKNOWN, None, names)
    missing = tuple([name for name, value in zip(names, values, strict=True) if value is None])
    if is_expired:
        # Expired is not the same as never observed, also where null is allowed.
        return LookupResult(Status.EXPIRED, None, missing, oldest)
    missing = tuple([name for name in missing if name not in request.nullable])
    if missing:
        return LookupResult(Status.INCOMPLETE, None, missing, oldest)
    return LookupResult(Status.FOUND, values, (), oldest)
