"""Triton's answers as columns of the prediction log."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from serving_gateway.telemetry.log_elements import elements
from serving_gateway.telemetry.log_page import Answer, Place
from serving_gateway.telemetry.log_rows import RowSpreader

_PROBABILITIES = pa.list_(pa.float64())


class AnsweredRows:
    """Maps the rows of requests to those of the inferences that they share.

    A request's rows begin at its `firsts` in the inference whose place in `answers` is its ordinal;
    a request without an ordinal has rows of nulls.
    """

    def __init__(
        self, answers: Sequence[Answer], ordinals: pa.Array, firsts: pa.Array, rows: RowSpreader
    ) -> None:
        bounds = pc.min_max(ordinals)
        least, most = bounds["min"].as_py(), bounds["max"].as_py()
        self.answers = [] if least is None else answers[least : most + 1]
        ends = [*accumulate((places[0] for _, _, places in self.answers), initial=0)]
        self.count = ends[-1]
        """Rows of all inferences."""
        offsets = pa.array(ends, pa.int64()).take(pc.subtract(ordinals, least or 0))
        self._places = pc.add(rows.spread(pc.add(offsets, firsts)), rows.index())
        if self.count == len(self._places) and _is_ascending(self._places):
            self._places = None  # all of them, as they are

    def select(self, column: pa.Array) -> pa.Array:
        """The requests' rows of a column with the rows of all inferences."""
        return column if self._places is None else column.take(self._places)


def _is_ascending(numbers: pa.Array) -> bool:
    is_less = pc.less(numbers[:-1], numbers[1:])
    return not numbers.null_count and bool(pc.all(is_less, min_count=0).as_py())


class AnswerColumns(NamedTuple):
    """One row for each row answered."""

    prediction: pa.Array
    score: pa.Array
    probabilities: pa.Array

    @staticmethod
    def nulls(rows: int) -> AnswerColumns:
        """Columns for rows without answers."""
        return AnswerColumns(
            pa.nulls(rows, pa.string()),
            pa.nulls(rows, pa.float64()),
            pa.nulls(rows, _PROBABILITIES),
        )


def answer_columns(answered: AnsweredRows) -> AnswerColumns:
    """The predictions of requests.

    `ValueError` where answers differ in type or shape, so that they share no column.
    """
    answers, rows = answered.answers, answered.count
    labels = _lists([(body, places[2]) for _, body, places in answers], rows)
    scores = _lists([(body, places[3]) for _, body, places in answers], rows)
    [is_boolean] = {places[1] for _, _, places in answers}
    text, value = _predictions(labels, is_boolean=is_boolean)
    columns = AnswerColumns(text, value, pa.nulls(rows, _PROBABILITIES))
    if not pa.types.is_null(scores.type):
        classes = [pc.list_element(scores, at) for at in range(scores.type.list_size)]
        largest = pc.max_element_wise(*classes).cast(pa.float64())
        columns = AnswerColumns(text, largest, scores.cast(_PROBABILITIES))
    return AnswerColumns(*map(answered.select, columns))


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
        return pa.array([str(label) for label in labels.to_pylist()], pa.string()), none
    flat = labels.flatten()
    if is_boolean:
        flat = flat.cast(pa.bool_())
    if not pa.types.is_floating(flat.type):
        return flat.cast(pa.string()), none
    flat = flat.cast(pa.float64())
    return flat.cast(pa.string()), flat
