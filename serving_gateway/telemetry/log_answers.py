"""Triton's answers as columns of the prediction log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from serving_gateway.telemetry.log_elements import elements, list_element
from serving_gateway.telemetry.prediction_log import Places

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
    labels: list[bytes] = []
    scores: list[bytes] = []
    kinds: set[tuple[bool, str, int, str, int]] = set()
    firsts: list[int] = []
    answered = rows = first = 0
    last, is_whole = None, True
    for body, start, place, count in zip(bodies, starts, places, counts, strict=True):
        if body is not last:
            last, first = body, answered
            in_answer, is_boolean, label, score = place
            answered += in_answer
            labels.append(body[label[1] : label[2]])
            scores.append(body[score[1] : score[2]])
            kinds.add((is_boolean, label[0], label[3], score[0], score[3]))
        firsts.append(first + start)
        is_whole = is_whole and first + start == rows
        rows += count
    if len(kinds) > 1:
        raise ValueError("answers differ in the type or shape of an output")
    [(is_boolean, label_type, label_width, score_type, score_width)] = kinds
    found = _columns(
        _lists(labels, label_type, label_width, answered),
        _lists(scores, score_type, score_width, answered),
        is_boolean=is_boolean,
    )
    if is_whole and rows == answered:
        return found
    spans = [range(first, first + count) for first, count in zip(firsts, counts, strict=True)]
    indices = pa.array([*chain.from_iterable(spans)], pa.int64())
    return AnswerColumns(*[column.take(indices) for column in found])


def _lists(parts: Sequence[bytes], datatype: str, width: int, rows: int) -> pa.Array:
    """An output as lists of its elements by row; nulls where there is none."""
    if not width:
        return pa.nulls(rows)
    flat = elements(parts, datatype)
    if len(flat) != rows * width:
        raise ValueError(f"an output has {len(flat)} elements for {rows} rows of {width}")
    return pa.FixedSizeListArray.from_arrays(flat, width)


def _columns(labels: pa.Array, probabilities: pa.Array, *, is_boolean: bool) -> AnswerColumns:
    text, value = _predictions(labels, is_boolean=is_boolean)
    if pa.types.is_null(probabilities.type):
        return AnswerColumns(text, value, pa.nulls(len(labels), _PROBABILITIES))
    width = probabilities.type.list_size
    classes = [list_element(probabilities, at) for at in range(width)]
    score = pc.max_element_wise(*classes).cast(pa.float64())
    return AnswerColumns(text, score, probabilities.cast(_PROBABILITIES))


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
