"""What a change of the signature breaks for clients: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving_gateway.contract import DType, Feature, Signature, feature_contract

if TYPE_CHECKING:
    import pandas as pd


def signature_differences(old: Signature, new: Signature) -> list[str]:
    """Say what of the requests and answers of `old` does not hold for `new`.

    Clients may send rows by position and binary tensors by name, so a feature that is added,
    removed, moved, retyped, or may not be missing any more breaks some of them.
    """
    breaking = _feature_differences(old.features, new.features)
    if old.packed_input != new.packed_input and not breaking:
        breaking.append("the input tensors of /v2 have other names")
    if not old.classes and new.classes:
        breaking.append("a regression became a classification")
    elif old.classes and not new.classes:
        breaking.append("a classification became a regression")
    elif gone := [label for label in old.classes if label not in new.classes]:
        breaking.append(f"it never answers {', '.join(map(repr, gone))} any more")
    if new.max_batch_rows < old.max_batch_rows:
        breaking.append(
            f"at most {new.max_batch_rows} rows in one request, not {old.max_batch_rows}"
        )
    return breaking


def _feature_differences(old: tuple[Feature, ...], new: tuple[Feature, ...]) -> list[str]:
    before = {feature.name: feature for feature in old}
    after = {feature.name: feature for feature in new}
    found = [f"{name} was removed" for name in before if name not in after]
    found += [f"{name} was added" for name in after if name not in before]
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            continue
        if (was.dtype, was.tensor_dtype) != (now.dtype, now.tensor_dtype):
            found.append(f"{name} was {_type(was)} and is {_type(now)}")
        elif was.nullable and not now.nullable:
            found.append(f"{name} may not be missing any more")
    if not found and [*before] != [*after]:
        found.append("the features have another order")
    return found


def _type(feature: Feature) -> str:
    if feature.tensor_dtype is feature.dtype:
        return feature.dtype.value
    return f"{feature.dtype.value} (as {feature.tensor_dtype.value})"


def frame_contract(rows: pd.DataFrame, signature: Signature) -> str:
    """Contract of rows in tensor form, told from their own columns and types.

    A column whose type is that of the signature's tensor has the signature's logical type,
    which a tensor does not tell by itself.
    """
    by_name = {feature.name: feature for feature in signature.features}
    kinds = {
        "float32": DType.FP32,
        "float64": DType.FP64,
        "int64": DType.INT64,
        "bool": DType.BOOL,
        "object": DType.BYTES,
        "str": DType.BYTES,
    }
    found: list[Feature] = []
    for name in rows.columns:
        kind = kinds[str(rows[name].dtype)]
        declared = by_name.get(name)
        if declared is not None and declared.tensor_dtype is kind:
            kind = declared.dtype
        found.append(Feature(name, kind))
    return feature_contract(found)
