"""Score rows with one version through Triton: several requests at a time, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from platform_assets.model_spec import Label, ModelSpec
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonEndpoint
from platform_assets.scoring.records import (
    AS_OF,
    PREDICTION,
    PROBABILITY,
    REASON,
    RUN_ID,
    SCORED_AT,
    VERSION,
    SampledRow,
)
from platform_assets.serving.answers import ask_triton, json_rows
from platform_assets.training.frame import tensor_form
from serving_gateway.contract import DType, Feature, Signature

if TYPE_CHECKING:
    import pandas as pd

Given = TypeVar("Given")
Made = TypeVar("Made")

_EXACT: Final = 2**53
"""Largest whole number up to which doubles hold all."""


ScoredPart = tuple[pa.RecordBatch, tuple[SampledRow, ...]]
"""A part of the file, and those of its rows that are in the compared sample."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores parts of the rows with one version."""

    spec: ModelSpec
    version: RegisteredVersion
    names: tuple[str, ...]
    """The columns that identify a row."""
    keys: tuple[str, ...]
    """The key columns of the online store among them."""
    name_types: pa.Schema
    scored_at: datetime
    sample_every: int

    @property
    def schema(self) -> pa.Schema:
        """Schema of the file."""
        signature, time = self.version.signature, pa.timestamp("us", tz="UTC")
        return pa.schema(
            [
                *(self.name_types.field(name) for name in self.names),
                (PREDICTION, answer_type(signature)),
                *((f"{PROBABILITY}{label}", pa.float32()) for label in self._classes),
                (REASON, pa.string()),
                (AS_OF, time),
                (VERSION, pa.int64()),
                (RUN_ID, pa.string()),
                (SCORED_AT, time),
            ]
        )

    def score(self, rows: pa.RecordBatch, start: int, endpoint: TritonEndpoint) -> ScoredPart:
        """Score rows, the first of which has the number `start`; raises as `infer` does."""
        signature = self.version.signature
        reasons = unscorable_reasons(rows, signature.features)
        places = pc.indices_nonzero(reasons.is_null()).to_numpy()
        usable = rows if len(places) == rows.num_rows else rows.take(pa.array(places))
        frame = tensor_form(usable.select(self.spec.feature_names).to_pandas(), self.spec)
        answers = self._ask(frame, endpoint)
        chosen = np.flatnonzero((places + start) % self.sample_every == 0)
        # The position of each row's answer; null if it has none.
        answered = np.full(rows.num_rows, -1)
        answered[places] = np.arange(len(places))
        spread = pa.array(answered, mask=answered < 0)
        same = self.version.version, self.version.run_id, self.scored_at
        columns = [
            *(rows[name] for name in self.names),
            *(column.take(spread) for column in answers),
            reasons,
            rows[AS_OF],
            *(pa.repeat(value, rows.num_rows) for value in same),
        ]
        schema = self.schema
        cast = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
        picked = pa.array(chosen)
        sample = self._sampled(
            frame.iloc[chosen],
            usable.select(self.keys).take(picked).to_pylist(),
            [answer.take(picked) for answer in answers],
        )
        return pa.record_batch(cast, schema=schema), sample

    def _sampled(
        self,
        frame: pd.DataFrame,
        entities: Sequence[Mapping[str, int | str]],
        answers: Sequence[pa.Array],
    ) -> tuple[SampledRow, ...]:
        rows = json_rows(self.version.signature, frame)
        predictions, *shares = [column.to_pylist() for column in answers]
        probabilities = zip(*shares, strict=True) if shares else [()] * len(rows)
        places = {name: self.spec.feature_names.index(name) for name in self.spec.request_names}
        return tuple(
            SampledRow(
                tuple(values),
                prediction,
                chances,
                entity,
                {name: values[place] for name, place in places.items() if entity},
            )
            for values, prediction, chances, entity in zip(
                rows, predictions, probabilities, entities, strict=True
            )
        )

    @property
    def _classes(self) -> tuple[Label, ...]:
        """Classes with probabilities."""
        signature = self.version.signature
        return signature.classes if signature.probabilities_output else ()

    def _ask(self, frame: pd.DataFrame, endpoint: TritonEndpoint) -> list[pa.Array]:
        """Return the predictions, and the probabilities of each class."""
        signature = self.version.signature
        kind = answer_type(signature)
        if frame.empty:
            return [pa.nulls(0, kind), *(pa.nulls(0, pa.float32()) for _ in self._classes)]
        labels, probabilities = ask_triton(
            self.version, frame, endpoint, batch_rows=signature.max_batch_rows
        )
        predictions = pa.array(labels).cast(kind)  # Triton returns booleans as 0 and 1
        if probabilities is None:
            return [predictions]
        return [predictions, *(pa.array(column) for column in probabilities.T)]


def answer_type(signature: Signature) -> pa.DataType:
    """Return the type of the predictions: that of the classes, or a number."""
    if not signature.classes:
        return pa.float64()
    kinds = {bool: pa.bool_(), int: pa.int64(), str: pa.string()}
    return kinds[type(signature.classes[0])]


def map_in_order(
    make: Callable[[Given], Made], items: Iterable[Given], threads: int
) -> Iterator[Made]:
    """Yield the result of `make` for each item, in order, computed by several threads.

    At most one item waits beside those in progress. The first error ends all.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="scoring")
    try:
        pending: deque[Future[Made]] = deque()
        for item in items:
            pending.append(executor.submit(make, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def unscorable_reasons(rows: pa.RecordBatch, features: Sequence[Feature]) -> pa.Array:
    """Return the reason why each row cannot be scored, null for those that can.

    The rows' own reasons take precedence, then those of the features in order.
    """
    reasons = rows[REASON].cast(pa.string())
    for mask, reason in _problems(rows, features):
        if pc.any(mask).as_py():
            new_reasons = pc.if_else(mask, pa.scalar(reason), pa.scalar(None, pa.string()))
            reasons = pc.coalesce(reasons, new_reasons)
    return reasons


def _problems(
    rows: pa.RecordBatch, features: Sequence[Feature]
) -> Iterator[tuple[pa.BooleanArray, str]]:
    for feature in features:
        values = rows[feature.name]
        if not feature.nullable:
            missing = values.is_null(nan_is_null=True)
            if feature.dtype is DType.BYTES:
                missing = pc.or_(missing, pc.fill_null(pc.equal(values, ""), False))
            yield missing, f"{feature.name} is missing"
        if feature.dtype in (DType.FP32, DType.FP64):
            yield pc.fill_null(pc.is_inf(values), False), f"{feature.name} is infinite"
        if feature.dtype is DType.INT64 and feature.nullable:
            # Null is NaN in a tensor, and doubles are exact up to here only.
            beyond = pc.or_(pc.greater(values, _EXACT), pc.less(values, -_EXACT))
            yield pc.fill_null(beyond, False), f"{feature.name} is beyond 2^53"
