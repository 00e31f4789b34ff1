"""Triton's answers as columns of the prediction log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from serving_gateway.telemetry.log_elements import elements, list_element
from serving_gateway.telemetry.prediction_log import Place, Places

_PROBABILITIES = pa.list_(pa.float64())


class AnswerColumns(NamedTuple):
    """One row for each row answered."""

    prediction: pa.Array
    score: pa.Array
    probabilities: pa.Array

    @staticmethod
    def types() -> tuple[pa.DataType, ...]:
        """Types of the columns."""
        return pa.string(), pa.float64(), _PROBABILITIES


def answer_columns(
    bodies: Sequence[bytes], starts: Sequence[int], places: Sequence[Places], counts: Sequence[int]
) -> AnswerColumns:
    """The predictions of requests, of which neighbours may share Triton's answer.

    Each has `counts` rows from row `starts` of its answer on, which is where `places` says.
    `ValueError` where answers differ in type or shape, so that they make no common column.
    """
    parts: list[tuple[bytes, Places]] = []
    firsts: list[int] = []
    answered = rows = first = 0
    last, is_whole = None, True
    for body, start, place, count in zip(bodies, starts, places, counts, strict=True):
        if body is not last:
            last, first = body, answered
            answered += place[0]
            parts.append((body, place))
        if first + start != rows:
            is_whole = False
        firsts.append(first + start)
        rows += count
    found = _columns(parts, answered)
    if is_whole and rows == answered:
        return found
    spans = [range(first, first + count) for first, count in zip(firsts, counts, strict=True)]
    indices = pa.array([*chain.from_iterable(spans)], pa.int64())
    return AnswerColumns(*[column.take(indices) for column in found])


def _columns(parts: Sequence[tuple[bytes, Places]], rows: int) -> AnswerColumns:
    """Whole answers of `rows` rows together."""
    labels = _lists([(body, place[2]) for body, place in parts], rows)
    scores = _lists([(body, place[3]) for body, place in parts], rows)
    [is_boolean] = {place[1] for _, place in parts}
    text, value = _predictions(labels, is_boolean=is_boolean)
    if pa.types.is_null(scores.type):
        return AnswerColumns(text, value, pa.nulls(rows, _PROBABILITIES))
    classes = [list_element(scores, at) for at in range(scores.type.list_size)]
    largest = pc.max_element_wise(*classes).cast(pa.float64())
    return AnswerColumns(text, largest, scores.cast(_PROBABILITIES))


def _lists(parts: Sequence[tuple[bytes, Place]], rows: int) -> pa.Array:
    """An output of all answers as lists of its elements by row; nulls where there is none."""
    kinds = {(place[0], place[3]) for _, place in parts}
    if len(kinds) > 1:
        raise ValueError("answers differ in the type or shape of an output")
    [(datatype, width)] = kinds
    if not width:
        return pa.nulls(rows)
    flat = elements([body[place[1] : place[2]] for body, place in parts], datatype)
    if len(flat) != rows * width:
        raise ValueError(f"an output has {len(flat)} elements for {rows} rows of {width}")
    return pa.FixedSizeListArray.from_arrays(flat, width)


def _predictions(labels: pa.Array, *, is_boolean: bool) -> tuple[pa.Array, pa.Array]:
    """The labels as text, and as numbers where a regression answered them."""
    none = pa.nulls(len(labels), pa.float64())
    if pa.types.is_null(labels.type):
        return pa.nulls(len(labels), pa.string()), none
    if labels.type.list_size > 1:
        return pa.array([str(one) for one in labels.to_pylist()], pa.string()), none
    flat = labels.flatten()
    if is_boolean:
        flat = flat.cast(pa.bool_())
    if not pa.types.is_floating(flat.type):
        return flat.cast(pa.string()), none
    flat = flat.cast(pa.float64())
    return flat.cast(pa.string()), flat
