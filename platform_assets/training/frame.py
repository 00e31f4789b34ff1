"""The training frame: labels joined with the features known at their time, in tensor form."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from platform_assets.features.point_in_time import (
    RepeatedRowsError,
    UnknownEntityError,
    join_tables,
)
from platform_assets.features.records import FeatureData, final_fingerprint
from platform_assets.features.storage import check_current
from platform_assets.memory import release
from platform_assets.model_spec import FeatureSpec, ModelSpec, Task
from platform_assets.training.rows import Rows, TrainingError, row_columns
from serving_gateway.contract import DType

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from platform_assets.resources.feast import FeastResource

_TIME: Final = "event_timestamp"
"""Feast's name for the time column of the entity rows."""
_EXACT: Final = 2**53
"""Integers up to here survive a detour through floating point."""


def training_rows(feast: FeastResource, data: FeatureData, spec: ModelSpec) -> Rows:
    """Join the features of Feast's offline store to the labels, point in time.

    The rows are sorted by time and entity, so the same data gives the same rows.

    Raises:
        FeatureStoreError: Feast cannot join.
        StaleDataError: the files hold other data than `data` says.
        TrainingError: a label has no observation at or before its time, or a value is not
            what the model file says of its column.
    """
    import pandas as pd

    check_current(data)
    release()  # earlier steps may have run in this process
    if spec.labels is not None:
        return _joined_tables(data, spec)
    labels = pd.read_parquet(data.labels_path)
    known_keys = pd.read_parquet(data.features_path, columns=[spec.join_key.name])
    entity_rows = labels.rename(columns={spec.event_timestamp: _TIME})
    joined = feast.historical(entity_rows, spec.feature_view)
    check_current(data)
    # Feast drops a label whose entity was only observed later, and keeps one whose entity never
    # was; a row of nulls alone proves nothing, since values may be missing.
    usable = joined[joined[spec.join_key.name].isin(known_keys[spec.join_key.name])]
    if len(usable) != len(labels):
        raise TrainingError(
            f"{len(labels) - len(usable)} of {len(labels)} labels have no observation at or "
            f"before their {spec.event_timestamp}"
        )
    ordered = _sort_rows(usable, _TIME, spec)
    del joined, usable
    rows = _tensors(ordered, _TIME, spec)
    del entity_rows, known_keys, labels, ordered
    release()
    return rows


def training_data(data: FeatureData, spec: ModelSpec, rows: int) -> FeatureData:
    """Return `data` with the fingerprint of the `rows` rows that `training_rows` returned.

    Labels become final with time, so the same source gives more rows on a later day.
    """
    if spec.labels is None or spec.labels.outcome_delay is None:
        return data
    return replace(data, fingerprint=final_fingerprint(data.fingerprint, rows))


def _joined_tables(data: FeatureData, spec: ModelSpec) -> Rows:
    delay = spec.labels.outcome_delay if spec.labels else None
    final_until = datetime.now(UTC) - (delay or timedelta())
    try:
        joined = join_tables(data, spec, final_until if delay else None)
    except (RepeatedRowsError, UnknownEntityError) as error:
        raise TrainingError(str(error)) from error
    if not joined.num_rows:
        raise TrainingError(
            f"no label is final: all {data.rows:,} are younger than the outcome_delay of {delay}"
        )
    check_current(data)
    frame = joined.to_pandas(strings_to_categorical=True, split_blocks=True, self_destruct=True)
    del joined
    ordered = _sort_rows(frame, spec.event_timestamp, spec)
    del frame
    rows = _tensors(ordered, spec.event_timestamp, spec)
    del ordered
    release()
    return rows


def source_rows(table: pa.Table, spec: ModelSpec) -> Rows:
    """Return the labelled rows of a source as `training_rows` does, without the store."""
    labelled = table.filter(table[spec.target.name].is_valid())
    time = spec.event_timestamp
    return _tensors(_sort_rows(labelled.to_pandas(), time, spec), time, spec)


def _sort_rows(frame: pd.DataFrame, time: str, spec: ModelSpec) -> pd.DataFrame:
    import pandas as pd

    # Categories would be sorted by where they appear first.
    plain = {name: frame[name] for name in (time, spec.join_key.name)}
    key = plain[spec.join_key.name]
    if isinstance(key.dtype, pd.CategoricalDtype):
        plain[spec.join_key.name] = key.astype(object)
    order = pd.DataFrame(plain).sort_values([*plain], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _tensors(ordered: pd.DataFrame, time: str, spec: ModelSpec) -> Rows:
    return Rows(
        features=tensor_form(ordered, spec),
        labels=_labels(ordered[spec.target.name], spec),
        groups=_groups(ordered, spec),
        times=None if spec.event_time is None else _utc(ordered[time]),
        weights=None if spec.weight is None else ordered[spec.weight.name].to_numpy(np.float64),
    )


def tensor_form(frame: pd.DataFrame, spec: ModelSpec) -> pd.DataFrame:
    """Return the features of `frame` in the form that Triton receives.

    Columns are in signature order, each in its tensor type: FP32 and FP64 with NaN for a
    missing number, INT64 (FP64 with NaN where it may be missing), BOOL (FP32 with 1, 0 and NaN
    where it may be missing), text with "" for a missing one.

    Raises:
        TrainingError: a value is missing where it may not be, or is not of the column's type;
            the message names the column and the first such row of `frame`.
    """
    import pandas as pd

    columns = {feature.name: _column(frame, feature, spec) for feature in spec.features}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)), copy=False)


def _column(frame: pd.DataFrame, feature: FeatureSpec, spec: ModelSpec) -> NDArray[Any]:
    column = frame[feature.name]
    # Missing text and empty text are the same.
    if not feature.nullable and feature.dtype is not DType.BYTES:
        missing = column.isna().to_numpy()
        if missing.any():
            raise TrainingError(
                f"{feature.name} is missing for {_row(frame, missing, spec)}: fill it in, or say "
                "`nullable: true` of the feature"
            )
    try:
        return _convert(column, feature)
    except (ValueError, TypeError, OverflowError) as exc:
        raise TrainingError(
            f"{feature.name} holds values that are not {feature.dtype.value}: {exc}"
        ) from exc


def _convert(column: pd.Series[Any], feature: FeatureSpec) -> NDArray[Any]:
    if feature.dtype is DType.BYTES:
        return _texts(column)
    if feature.dtype is DType.FP32:
        with np.errstate(over="ignore"):  # the preprocessing clips values that are too large
            return column.to_numpy(dtype=np.float32, na_value=np.nan)
    if feature.nullable or feature.dtype is DType.FP64:
        dtype = np.float32 if feature.dtype is DType.BOOL else np.float64
        return column.to_numpy(dtype=dtype, na_value=np.nan)
    if feature.dtype is DType.BOOL:
        return column.to_numpy(dtype=np.bool_)
    return _to_int64(column)


def _texts(column: pd.Series[Any]) -> NDArray[Any]:
    """Return texts as objects, "" for a missing one; equal texts share one object."""
    import pandas as pd

    places, texts = pd.factorize(column)
    # A missing value has place -1 and so gets the last one.
    return np.array([*map(str, texts), ""], dtype=object)[places]


def _to_int64(column: pd.Series[Any]) -> NDArray[np.int64]:
    values = column.to_numpy()
    if values.dtype.kind == "f" and not (
        np.abs(values).max(initial=0) <= _EXACT and (values == np.rint(values)).all()
    ):
        raise ValueError("numbers that are not whole, or whole ones that lost digits in the join")
    return values.astype(np.int64)


def _row(frame: pd.DataFrame, wrong: NDArray[np.bool_], spec: ModelSpec) -> str:
    key, place = spec.join_key.name, int(wrong.argmax())
    which = f"{key} {frame[key].iloc[place]}" if key in frame else f"row {place + 1}"
    return f"{which} ({int(wrong.sum())} of {len(frame)} rows)"


def _labels(column: pd.Series[Any], spec: ModelSpec) -> NDArray[Any]:
    if spec.task is Task.REGRESSION:
        return column.to_numpy(dtype=np.float64)
    if spec.target.answer_dtype is DType.BYTES:
        return np.asarray(column.map(str), dtype=object)
    return _to_int64(column)


def _groups(frame: pd.DataFrame, spec: ModelSpec) -> NDArray[Any]:
    """Return the groups that a split keeps together: entities, or values of the group feature."""
    name = spec.evaluation.group
    if name is None:
        return _entities(frame, spec)
    (feature,) = (candidate for candidate in spec.features if candidate.name == name)
    values = _column(frame, feature, spec)
    if values.dtype.kind == "f":
        raise TrainingError(
            f"{name} is {feature.dtype.value} that may be missing or broken, and groups rows by "
            "evaluation.group: choose a text, or an integer or boolean that is not nullable"
        )
    return values.astype(np.int64) if values.dtype.kind == "b" else values


def _entities(frame: pd.DataFrame, spec: ModelSpec) -> NDArray[Any]:
    if not spec.join_key.from_row_number:
        ids = frame[spec.join_key.name]
        return _to_int64(ids) if spec.join_key.dtype is DType.INT64 else np.asarray(ids, object)
    import pandas as pd

    # An inserted row renumbers those after it, but a row's content stays, and equal rows belong
    # on one side of a split anyway.
    content = frame[row_columns(spec)]
    return pd.util.hash_pandas_object(content, index=False).to_numpy().astype(np.int64)


def _utc(column: pd.Series[Any]) -> NDArray[np.datetime64]:
    import pandas as pd

    return pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
