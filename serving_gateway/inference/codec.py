"""Rows to tensors and back, by a model's signature: pure.

NaN means that a value is missing, in every encoding: null or NaN in JSON, NaN in a binary tensor,
the empty text among texts. It is accepted where the feature may be missing. Infinity never is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.errors import BadUpstreamAnswer, InvalidInput
from serving_gateway.inference.coerce import coerce_column
from serving_gateway.inference.tensors import (
    FORMATS,
    InputSpec,
    Tensors,
    TensorView,
    all_finite,
    chunks,
    pack,
    unpack,
)

Row = Sequence[Any]


class ModelOutput(msgspec.Struct, frozen=True):
    """Decoded predictions for some rows, to be cut into those of single requests.

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
        finite = self.is_finite or _is_finite(predictions, probabilities)
        return ModelOutput(predictions, probabilities, finite)


class Codec:
    """Checks and packs rows for one signature, and unpacks the outputs.

    Attributes:
        signature: what the model reads and answers.
        names: of the features, in the order of a row.
        nullable: the names of those that may be missing.
        inputs: the model's input tensors, in order.
        columns: by input, its columns as features of the tensor's own type.
        outputs: the names of the tensors that make a prediction.
        float_rows: whether every row is a list of floats for one tensor, so that the JSON
            decoder has checked every element's type already.
        has_bool_labels: whether the labels are booleans, which tensors hold as numbers.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        features = signature.features
        self.width = len(features)
        self.names = tuple(feature.name for feature in features)
        self.nullable = frozenset(feature.name for feature in features if feature.nullable)
        packed = signature.packed_input
        if packed is None:
            self.inputs = tuple(InputSpec(f.name, f.tensor_dtype, 1) for f in features)
        else:
            dtypes = {feature.tensor_dtype for feature in features}
            if len(dtypes) != 1:
                raise ValueError(f"packed input {packed!r} needs one type, has {sorted(dtypes)}")
            self.inputs = (InputSpec(packed, features[0].tensor_dtype, self.width),)
        self.columns = {
            spec.name: tuple(
                msgspec.structs.replace(feature, dtype=spec.dtype)
                for feature in features
                if packed is not None or feature.name == spec.name
            )
            for spec in self.inputs
        }
        outputs = [signature.label_output]
        if signature.probabilities_output is not None:
            outputs.append(signature.probabilities_output)
        self.outputs = tuple(outputs)
        self.float_rows = packed is not None and all(
            feature.dtype in {DType.FP32, DType.FP64} for feature in features
        )
        self._row = (
            struct.Struct(f"<{self.width}{FORMATS[features[0].dtype][0]}")
            if self.float_rows
            else None
        )
        self.has_bool_labels = bool(signature.classes) and all(
            isinstance(label, bool) for label in signature.classes
        )

    def encode(self, rows: Sequence[Row], field: str = "data") -> Tensors:
        """Pack rows of values in the order of the features.

        Args:
            rows: at least one row of `width` JSON values.
            field: name of the request field, for error messages.

        Raises:
            InvalidInput: naming the first offending value.
        """
        if not rows:
            raise InvalidInput(
                f"{field} is empty; send at least one row.", field=field, code="empty"
            )
        self._check_widths(rows, field)
        return self._pack(
            [
                coerce_column([row[i] for row in rows], feature, _cell(field, i))
                for i, feature in enumerate(self.signature.features)
            ]
        )

    def encode_floats(self, rows: Sequence[Sequence[float]]) -> Tensors:
        """Pack rows whose elements are known to be finite floats: the fast way of `encode`.

        To be used with `float_rows` only, and never with unchecked values: packing would take
        a boolean for a number.

        Raises:
            InvalidInput: naming the first offending value.
        """
        if self._row is not None and rows:
            row_pack = self._row.pack
            try:
                if len(rows) == 1:
                    return (row_pack(*rows[0]),)
                return (b"".join([row_pack(*row) for row in rows]),)
            except (struct.error, OverflowError):
                pass  # the careful way finds it again, with its place
        return self.encode(rows)

    def encode_instances(self, instances: Sequence[Mapping[str, Any]]) -> Tensors:
        """Pack rows given as objects by feature name, in any order.

        Raises:
            InvalidInput: naming the first missing, unknown or offending value.
        """
        if not instances:
            raise InvalidInput(
                "instances is empty; send at least one.", field="instances", code="empty"
            )
        known = frozenset(self.names)
        for r, instance in enumerate(instances):
            if instance.keys() != known:
                raise self._misnamed(r, instance)
        return self._pack(
            [
                coerce_column(
                    [instance[feature.name] for instance in instances], feature, _named(feature)
                )
                for feature in self.signature.features
            ]
        )

    def warm_up_rows(self) -> Tensors:
        """One harmless row, of zeros, False and empty text."""
        blank = {DType.BOOL: False, DType.BYTES: ""}
        features = self.signature.features
        return self._pack([[blank.get(feature.tensor_dtype, 0)] for feature in features])

    def decode(self, outputs: Sequence[TensorView], rows: int) -> ModelOutput:
        """Unpack the outputs for `rows` rows.

        Raises:
            BadUpstreamAnswer: a tensor is missing, or has another number of rows.
        """
        by_name = {output.name: output for output in outputs}
        label = self._output(by_name, self.signature.label_output, rows)
        predictions = unpack(label)
        if len(predictions) != rows:
            if len(predictions) % rows:
                raise BadUpstreamAnswer(f"Triton's {label.name} has shape {label.shape}.")
            predictions = chunks(predictions, len(predictions) // rows)
        if self.has_bool_labels:
            predictions = [bool(value) for value in predictions]
        name = self.signature.probabilities_output
        if name is None:
            return ModelOutput(predictions, None, _is_finite(predictions, None))
        flat = unpack(self._output(by_name, name, rows))
        finite = all_finite(flat) and _is_finite(predictions, None)
        return ModelOutput(predictions, chunks(flat, len(flat) // rows), finite)

    @staticmethod
    def _output(by_name: Mapping[str, TensorView], name: str, rows: int) -> TensorView:
        output = by_name.get(name)
        if output is None:
            raise BadUpstreamAnswer(f"Triton's answer lacks the output {name!r}.")
        if not output.shape or output.shape[0] != rows:
            raise BadUpstreamAnswer(
                f"Triton's {name} has shape {list(output.shape)} for {rows} rows."
            )
        return output

    def _check_widths(self, rows: Sequence[Row], field: str) -> None:
        for r, row in enumerate(rows):
            if len(row) != self.width:
                raise InvalidInput(
                    f"{field}[{r}] has {len(row)} values; this model reads {self.width}: "
                    f"{', '.join(self.names)}.",
                    field=f"{field}[{r}]",
                    code="wrong_width",
                )

    def _misnamed(self, r: int, instance: Mapping[str, Any]) -> InvalidInput:
        for feature in self.signature.features:
            if feature.name not in instance:
                todo = "; send null where it is not known" if feature.nullable else ""
                return InvalidInput(
                    f"instances[{r}] lacks the feature {feature.name!r}{todo}.",
                    field=f"instances[{r}].{feature.name}",
                    code="missing_feature",
                )
        extra = sorted(instance.keys() - set(self.names))[0]
        return InvalidInput(
            f"instances[{r}] has {extra!r}, which is not a feature of this model; "
            f"it has {', '.join(self.names)}.",
            field=f"instances[{r}].{extra}",
            code="unknown_feature",
        )

    def _pack(self, columns: Sequence[Sequence[Any]]) -> Tensors:
        """Pack coerced values, given by feature."""
        if self.signature.packed_input is None:
            return tuple(
                [
                    pack(feature.tensor_dtype, column)
                    for feature, column in zip(self.signature.features, columns, strict=True)
                ]
            )
        flat = list(chain.from_iterable(zip(*columns, strict=True)))
        return (pack(self.inputs[0].dtype, flat),)


def _cell(field: str, column: int) -> Callable[[int], str]:
    return lambda row: f"{field}[{row}][{column}]"


def _named(feature: Feature) -> Callable[[int], str]:
    return lambda row: f"instances[{row}].{feature.name}"


def _is_finite(predictions: list[Any], probabilities: list[list[float]] | None) -> bool:
    first = predictions[0] if predictions else None
    if isinstance(first, list):
        predictions = list(chain.from_iterable(predictions))
        first = predictions[0] if predictions else None
    if isinstance(first, float) and not all_finite(predictions):
        return False
    return probabilities is None or all(map(all_finite, probabilities))
