"""Answers of a Triton that exists in memory only: the iris model, versions 1 and 2 READY."""

from __future__ import annotations

import json
import struct
from typing import Any

_OK = b"HTTP/1.1 200 OK\r\n"


def answer_of(request: bytes) -> bytes | None:
    """What a Triton with the iris model would answer; None while the request is incomplete."""
    head, separator, body = request.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if not separator or len(body) < int(fields.get(b"content-length", b"0")):
        return None
    method, path, _ = head.split(b" ", 2)
    if method == b"POST":
        return _inference(body, path, fields)
    if path.endswith(b"/ready") or path.endswith(b"/live"):
        return _OK + b"Content-Length: 0\r\n\r\n"
    return json_answer(_METADATA)


_METADATA = {
    "name": "best_model",
    "versions": ["1", "2"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ],
}


def json_answer(content: Any) -> bytes:
    """A 200 with JSON."""
    body = json.dumps(content).encode()
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return _OK + head + body


def _inference(body: bytes, path: bytes, fields: dict[bytes, bytes]) -> bytes:
    length = int(fields.get(b"inference-header-content-length", len(body)))
    rows = json.loads(body[:length])["inputs"][0]["shape"][0]
    version = path.split(b"/versions/")[1].split(b"/")[0].decode()
    head = json.dumps(
        {
            "model_name": "best_model",
            "model_version": version,
            "outputs": [
                _output("label", "INT64", [rows], 8 * rows),
                _output("probabilities", "FP32", [rows, 3], 12 * rows),
            ],
        }
    ).encode()
    values = struct.pack(f"<{rows}q", *[0] * rows)
    values += struct.pack(f"<{3 * rows}f", *[0.97, 0.03, 0.0] * rows)
    return (
        b"%sContent-Type: application/octet-stream\r\n"
        b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s%s"
        % (_OK, len(head), len(head) + len(values), head, values)
    )


def _output(name: str, datatype: str, shape: list[int], size: int) -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
