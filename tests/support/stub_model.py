"""A model for Tritons that tests play: tells which version answered, which row, in what company."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

from serving_gateway.contract import DType, Feature, Signature
from serving_gateway.inference.tensors import TensorView, pack, unpack

SIGNATURE = Signature(
    tuple(Feature(name, DType.FP32, nullable=name == "b") for name in "ab"), packed_input="x"
)
"""Of the model below: two numbers, the second of which may be missing."""


@dataclass(frozen=True, slots=True)
class Inference:
    """One inference request as Triton got it."""

    head: dict[str, Any]
    inputs: dict[str, list[Any]]
    """Elements by input."""
    rows: int

    @classmethod
    def read(cls, body: bytes) -> Inference:
        """Read a request as the gateway writes it: JSON, then the tensors."""
        text = body.decode("latin-1")
        head, at = json.JSONDecoder().raw_decode(text)
        inputs: dict[str, list[Any]] = {}
        for one in head["inputs"]:
            size = one["parameters"]["binary_data_size"]
            view = memoryview(body)[at : at + size]
            inputs[one["name"]] = unpack(TensorView(one["name"], one["datatype"], (), view))
            at += size
        assert at == len(body)
        return cls(head, inputs, head["inputs"][0]["shape"][0])


@dataclass(slots=True)
class StubModel:
    """Answers inferences; what it did is kept.

    Attributes:
        seen: the inferences, in order.
        refused: first elements of rows that it refuses with 400.
        broken: first elements of rows for which it answers NaN.
        extra: further outputs by name: type, shape, bytes.
    """

    seen: list[Inference] = field(default_factory=list)
    refused: set[float] = field(default_factory=set)
    broken: set[float] = field(default_factory=set)
    extra: dict[str, tuple[str, list[int], bytes]] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs, as Triton describes them."""
        inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        outputs = [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ]
        return {"inputs": inputs, "outputs": outputs}

    def answer(self, version: int, body: bytes) -> tuple[int, int | None, bytes]:
        """Status, length of the JSON part and body of the response.

        The label of each row is the version; its scores are its own first element and the rows of
        the whole inference.
        """
        inference = Inference.read(body)
        self.seen.append(inference)
        flat = next(iter(inference.inputs.values()))
        width = len(flat) // inference.rows
        firsts = flat[::width]
        if self.refused & {*firsts}:
            return 400, None, b'{"error":"a row is refused"}'
        scores: list[float] = []
        for first in firsts:
            number = float(first) if isinstance(first, (int, float)) else float(len(first))
            scores += [float("nan") if first in self.broken else number, float(inference.rows)]
        rows = inference.rows
        outputs: dict[str, tuple[str, list[int], bytes]] = {
            "label": ("INT64", [rows], struct.pack(f"<{rows}q", *[version] * rows)),
            "probabilities": ("FP32", [rows, 2], struct.pack(f"<{2 * rows}f", *scores)),
            "text": ("BYTES", [rows, 1], pack("BYTES", [str(first) for first in firsts])),
            **self.extra,
        }
        wanted = [one["name"] for one in inference.head.get("outputs", [])] or [*outputs]
        described = [
            {
                "name": name,
                "datatype": outputs[name][0],
                "shape": outputs[name][1],
                "parameters": {"binary_data_size": len(outputs[name][2])},
            }
            for name in wanted
        ]
        head = {"model_name": "m", "model_version": str(version), "outputs": described}
        text = json.dumps(head).encode()
        return 200, len(text), text + b"".join(outputs[name][2] for name in wanted)
