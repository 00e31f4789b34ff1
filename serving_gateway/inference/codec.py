"""Encodes rows as tensors by a model's signature, and holds the decoded output. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from math import isfinite
from operator import itemgetter
from typing import Any, Final

import msgspec

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import InvalidInput
from serving_gateway.inference.coerce import Place, coerce_elements, invalid_value
from serving_gateway.inference.tensors import FLOATS, FORMATS, Tensors, all_finite, pack

_NUMBERS: Final = frozenset([float, int])


class ModelOutput(msgspec.Struct, frozen=True):
    """Decoded predictions for some rows, to be split into those of single requests.

    `probabilities` holds one list per row, in the order of the classes; None for a regression.
    `is_finite` says that JSON can hold it: there is no NaN and no infinity.
    """

    predictions: list[Any]
    probabilities: list[list[float]] | None
    is_finite: bool = True

    def part(self, start: int, stop: int) -> ModelOutput:
        """The output for rows `start` to `stop`, the latter excluded."""
        predictions, probabilities = self.predictions[start:stop], self.probabilities
        if probabilities is not None:
            probabilities = probabilities[start:stop]
        finite = self.is_finite or _is_finite([predictions, probabilities])
        return ModelOutput(predictions, probabilities, finite)


class InputSpec(msgspec.Struct, frozen=True):
    """One input tensor of a model, with one column per feature.

    `columns` are the features with the tensor's type: the same object if all have it already.
    """

    name: str
    dtype: DType
    features: tuple[Feature, ...]
    columns: tuple[Feature, ...]

    def pack(self, flat: list[Any], features: tuple[Feature, ...], place: Place) -> bytes:
        """Bytes of the elements, row by row; `InvalidInput` at `place` for one that is invalid."""
        uniform = features is self.columns
        return pack(self.dtype, coerce_elements(flat, features, place, is_uniform=uniform))


class RowLayout:
    """The features of a signature, by where their values come from.

    `names` are in the order of a row, and so are its parts `stored` and `requested`. `ValueError`
    where a request feature is not a feature.
    """

    def __init__(self, signature: Signature) -> None:
        self.names = tuple([feature.name for feature in signature.features])
        self.known, self.required = frozenset(self.names), frozenset(signature.request)
        if unknown := self.required - self.known:
            raise ValueError(f"request feature {min(unknown)!r} is not among the features")
        self.requested = tuple([name for name in self.names if name in self.required])
        self.stored = tuple([name for name in self.names if name not in self.required])
        self.positions = {name: at for at, name in enumerate(self.stored)}
        """Index of each stored feature in `stored`."""
        places = {name: at for at, name in enumerate((*self.stored, *self.requested))}
        order = [places[name] for name in self.names]
        self._arrange = None if order == sorted(order) else itemgetter(*order)

    def row(self, stored: list[Any], sent: Mapping[str, Any]) -> list[Any]:
        """The row of these stored values and the request features among `sent`."""
        if not self.requested:
            return stored
        values = stored + [sent[name] for name in self.requested]
        return values if self._arrange is None else [*self._arrange(values)]


class Codec:
    """Checks and packs rows for one signature.

    `inputs` are the model's tensors in order, `outputs` the names of those that make a prediction,
    `nullable` the features that may be missing, `layout` says where their values come from.
    `float_rows` says that every row is a list of floats for one tensor, so that the JSON decoder
    has checked every element's type already.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        features, packed = signature.features, signature.packed_input
        self.width = len(features)
        self.layout = RowLayout(signature)
        self.names = self.layout.names
        self.nullable = frozenset(feature.name for feature in features if feature.nullable)
        self.inputs = (
            tuple(_input(feature.name, (feature,)) for feature in features)
            if packed is None
            else (_input(packed, features),)
        )
        self.outputs = tuple(
            name for name in (signature.label_output, signature.probabilities_output) if name
        )
        first = self.inputs[0]
        self.float_rows = (
            packed is not None and first.dtype in FLOATS and first.features is first.columns
        )
        self._row = (
            struct.Struct(f"<{self.width}{FORMATS[first.dtype]}") if self.float_rows else None
        )

    def encode(
        self,
        rows: Sequence[Sequence[Any]],
        field: str = "data",
        place: Place | None = None,
        *,
        are_floats: bool = False,
    ) -> Tensors:
        """Pack rows of JSON values in the order of the features; `field` is the request's name.

        `are_floats` says that every value is known to be a finite float. `InvalidInput` names the
        first offending value, by its `place` if values have other paths than those in `field`.
        """
        if self._row is not None and rows:
            row_pack = self._row.pack
            try:
                if are_floats or _are_numbers(rows):
                    if len(rows) == 1:
                        return (row_pack(*rows[0]),)
                    return (b"".join([row_pack(*row) for row in rows]),)
            except (struct.error, OverflowError):
                pass  # the careful path finds it again, with its place
        for r, row in enumerate(rows):
            if len(row) != self.width:
                what = f"has {len(row)} values; this model reads {self.width}: "
                raise invalid_value(
                    f"{field}[{r}]", f"{what}{', '.join(self.names)}.", code="wrong_width"
                )
        return self._pack(
            rows, range(self.width), field, place or (lambda row, i: f"{field}[{row}][{i}]")
        )

    def encode_instances(self, instances: Sequence[Mapping[str, Any]]) -> Tensors:
        """Pack rows given by feature name; `InvalidInput` names the first wrong value."""
        known = frozenset(self.names)
        for r, instance in enumerate(instances):
            if instance.keys() != known:
                raise self._name_error(instance, f"instances[{r}]")
        names = self.names
        return self._pack(
            instances, names, "instances", lambda row, i: f"instances[{row}].{names[i]}"
        )

    def warm_up_rows(self) -> Tensors:
        """One harmless row, of zeros, False and empty text."""
        blank = {DType.BOOL: False, DType.BYTES: ""}
        return tuple(
            [pack(one.dtype, [blank.get(one.dtype, 0)] * len(one.columns)) for one in self.inputs]
        )

    def _pack(self, rows: Sequence[Any], keys: Sequence[Any], field: str, place: Place) -> Tensors:
        """Pack rows whose value of feature i is at `keys[i]`, and at its place in the request."""
        if not rows:
            raise invalid_value(field, "is empty; send at least one row.", code="empty")
        tensors: list[bytes] = []
        at = 0
        for spec in self.inputs:
            start, at = at, at + len(spec.features)
            flat = [row[key] for row in rows for key in keys[start:at]]

            def place_of(row: int, column: int, start: int = start) -> str:
                return place(row, start + column)

            tensors.append(spec.pack(flat, spec.features, place_of))
        return tuple(tensors)

    def _name_error(self, instance: Mapping[str, Any], path: str) -> InvalidInput:
        for feature in self.signature.features:
            if feature.name not in instance:
                todo = "; send null where it is not known" if feature.nullable else ""
                return invalid_value(
                    f"{path}.{feature.name}", f"is missing{todo}.", code="missing_feature"
                )
        extra = min(instance.keys() - set(self.names))
        what = f"is not a feature of this model; it has {', '.join(self.names)}."
        return invalid_value(f"{path}.{extra}", what, code="unknown_feature")


def _input(name: str, features: tuple[Feature, ...]) -> InputSpec:
    dtypes = {feature.tensor_dtype for feature in features}
    if len(dtypes) != 1:
        raise ValueError(f"packed input {name!r} needs one type, has {sorted(dtypes)}")
    (dtype,) = dtypes
    columns = tuple(msgspec.structs.replace(feature, dtype=dtype) for feature in features)
    features = columns if columns == features else features
    return InputSpec(name, dtype, features, columns)


def _are_numbers(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether all are finite numbers; `OverflowError` for integers beyond the range of a float."""
    flat = [*chain.from_iterable(rows)]
    return _NUMBERS.issuperset(map(type, flat)) and all_finite(flat)


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or isfinite(value)
