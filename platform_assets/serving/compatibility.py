"""What a change of the signature breaks for clients, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from serving_gateway.contract import DType, Feature, Signature, feature_contract

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from platform_assets.model_spec import Label


def signature_differences(old: Signature, new: Signature) -> list[str]:
    """Describe what in the requests and answers of `old` no longer holds for `new`.

    Clients may send rows by position and binary tensors by name, so a feature that is added,
    removed, moved, retyped or no longer nullable breaks some of them; so do different keys, and
    a request feature that they do not send yet. They read probabilities by position, so a new
    class must come after the existing ones.
    """
    breaking = _feature_differences(old.features, new.features) or _key_differences(old, new)
    if old.packed_input != new.packed_input and not breaking:
        breaking.append("the input tensors of /v2 have other names")
    if not old.classes and new.classes:
        breaking.append("a regression became a classification")
    elif old.classes and not new.classes:
        breaking.append("a classification became a regression")
    else:
        breaking += _class_differences(old.classes, new.classes)
    if new.max_batch_rows < old.max_batch_rows:
        breaking.append(
            f"at most {new.max_batch_rows} rows in one request, not {old.max_batch_rows}"
        )
    return breaking


def comparison_obstacle(old: Signature, new: Signature) -> str:
    """Say why `old` cannot be asked about the evaluation rows of `new`; "" when it can."""
    rows = {feature.name: feature.tensor_dtype for feature in new.features}
    missing = [feature.name for feature in old.features if feature.name not in rows]
    if missing:
        return f"reads {', '.join(missing)}, which the evaluation rows lack"
    # Text cannot be sent as a number, nor a missing value as an integer.
    retyped = [
        feature.name for feature in old.features if feature.tensor_dtype is not rows[feature.name]
    ]
    if retyped:
        return f"reads {', '.join(retyped)} as another type than the evaluation rows have"
    if bool(old.classes) != bool(new.classes):
        return f"is a {'classifier' if old.classes else 'regression'}"
    kinds = [{isinstance(label, str) for label in signature.classes} for signature in (old, new)]
    return "answers labels of another type" if kinds[0] != kinds[1] else ""


def align_probabilities(
    classes: Sequence[Label], probabilities: NDArray[np.float64], order: Sequence[Label]
) -> NDArray[np.float64]:
    """Return probabilities, whose columns are in `order`, in the order of `classes`.

    A class that the columns lack has the probability 0.
    """
    aligned = np.zeros((len(probabilities), len(classes)))
    for place, label in enumerate(classes):
        if label in order:
            aligned[:, place] = probabilities[:, order.index(label)]
    return aligned


def _class_differences(old: tuple[Label, ...], new: tuple[Label, ...]) -> list[str]:
    # With their types: 1 equals True, and clients see another answer.
    before, after = ([(type(label), label) for label in classes] for classes in (old, new))
    gone = [label for kind, label in before if (kind, label) not in after]
    if gone:
        return [f"it never answers {', '.join(map(repr, gone))} any more"]
    if after[: len(before)] != before:
        now, was = (", ".join(map(repr, classes)) for classes in (new, old))
        return [f"the probabilities are in another order: {now}, not {was}"]
    return []


def _feature_differences(old: tuple[Feature, ...], new: tuple[Feature, ...]) -> list[str]:
    before = {feature.name: feature for feature in old}
    after = {feature.name: feature for feature in new}
    changes = [f"{name} was removed" for name in before if name not in after]
    changes += [f"{name} was added" for name in after if name not in before]
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            continue
        if (was.dtype, was.tensor_dtype) != (now.dtype, now.tensor_dtype):
            changes.append(f"{name} was {_type(was)} and is {_type(now)}")
        elif was.nullable and not now.nullable:
            changes.append(f"{name} may not be missing any more")
    if not changes and [*before] != [*after]:
        changes.append("the features have another order")
    return changes


def _key_differences(old: Signature, new: Signature) -> list[str]:
    """List the differences for clients that send keys and request features."""
    new_names = [name for name in new.request if name not in old.request]
    changes = [f"{name} has to come with each request" for name in new_names]
    # Older versions have one key without naming it; `entity_id` stands for it.
    if old.join_keys and {*new.join_keys} != {*old.join_keys}:
        keys = (" and ".join(names) for names in (new.join_keys, old.join_keys))
        changes.append("features are read by {}, not by {}".format(*keys))
    elif len(new.join_keys) > 1 and len(old.join_keys) < 2:
        changes.append(f"features are read by {' and '.join(new.join_keys)}, not by one key")
    return changes


def _type(feature: Feature) -> str:
    if feature.tensor_dtype is feature.dtype:
        return feature.dtype.value
    return f"{feature.dtype.value} (as {feature.tensor_dtype.value})"


def frame_contract(rows: pd.DataFrame, signature: Signature) -> str:
    """Return the contract of rows in tensor form, derived from their own columns and types.

    A column whose type is that of the signature's tensor gets the signature's logical type,
    which the tensor alone does not reveal.
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
    features: list[Feature] = []
    for name in rows.columns:
        kind = kinds[str(rows[name].dtype)]
        declared = by_name.get(name)
        if declared is not None and declared.tensor_dtype is kind:
            kind = declared.dtype
        features.append(Feature(name, kind))
    return feature_contract(features)
