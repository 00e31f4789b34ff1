"""ONNX Runtime as a Python-based Triton backend in place of NVIDIA's C++ one.

A repository entry with `backend: "onnxruntime"` loads here and in NVIDIA's container. The rules of
the C++ backend that decide whether an entry loads and what it answers are followed: which
graphs fit which configuration, what is completed when inputs or outputs are left out, and the
options `optimization.graph.level` and the parameters `intra_op_thread_count`,
`inter_op_thread_count`, `execution_mode`, `enable_mem_arena`, `enable_mem_pattern`. Entries
that it does not support (GPUs, sequences, ragged batches, accelerators) fail to load with a reason.

Runs inside Triton's own environment (numpy and ONNX Runtime) and imports nothing of this
project. Triton starts a process per instance and calls it from one thread.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnxruntime as ort

    from platform_assets.local_stack.onnxruntime_backend import graph_config
else:
    # Triton loads this file only by its path, outside of any package.
    sys.path.append(str(Path(__file__).parent))
    import graph_config

_MODEL_FILE = "model.onnx"
# ONNX Runtime reads this on import; by default it reports model names to its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class TritonPythonModel:
    """One instance of one version."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in inputs and outputs that the configuration omits, from the graph."""
        config = auto_complete_model_config.as_dict()
        if not (config.get("input") and config.get("output")):
            session = _session(_path_from_arguments(), config)
            graph_config.complete(
                config,
                [graph_config.GraphTensor(node) for node in session.get_inputs()],
                [graph_config.GraphTensor(node) for node in session.get_outputs()],
            )
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph, or refuse with the reason that Triton shows."""
        config = json.loads(args["model_config"])
        graph_config.refuse_unsupported(config, args["model_instance_kind"])
        name = config.get("default_model_filename") or _MODEL_FILE
        path = Path(args["model_repository"]) / args["model_version"] / name
        self._session = _session(path, config)
        inputs = [graph_config.GraphTensor(node) for node in self._session.get_inputs()]
        overridable = [
            graph_config.GraphTensor(node) for node in self._session.get_overridable_initializers()
        ]
        outputs = [graph_config.GraphTensor(node) for node in self._session.get_outputs()]
        graph_config.check_inputs(config, inputs, overridable)
        graph_config.check_outputs(config, outputs)
        known = inputs + overridable
        self._text = frozenset(t.name for t in known if t.data_type == "TYPE_STRING")
        self._scalar_inputs = frozenset(t.name for t in known if not t.shape)
        self._scalar_outputs = {
            t.name: graph_config.shape_of(entry)
            for entry in config["output"]
            for t in outputs
            if t.name == entry["name"] and not t.shape
        }
        self._plain = not (self._text or self._scalar_inputs)
        self._batching = int(config.get("max_batch_size", 0)) > 0
        # The wrapper's own run() repeats checks that Triton has already made.
        self._run = getattr(self._session, "_sess", self._session).run
        # Imported objects stay; the collector need not traverse them between requests.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; an error of one does not affect the others."""
        if len(requests) == 1 or not self._batching:
            return [self._run_single(request) for request in requests]
        return self._execute_merged(requests)

    def _run_single(self, request: Any) -> Any:
        names = request.requested_output_names()
        # An error answers only this request.
        try:
            arrays = self._run(names, self._feeds(request), None)
            return self._response(names, arrays)
        except Exception as error:
            return pb.InferenceResponse(error=_error(error))

    def _execute_merged(self, requests: Sequence[Any]) -> list[Any]:
        """Run requests with the same shapes and outputs together, all others alone."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for index, request in enumerate(requests):
            try:
                feeds = self._feeds(request)
            except Exception as error:
                answers[index] = pb.InferenceResponse(error=_error(error))
                continue
            shapes = tuple(sorted((name, array.shape[1:]) for name, array in feeds.items()))
            key = (tuple(request.requested_output_names()), shapes)
            groups.setdefault(key, []).append((index, feeds))
        for (names, _), group in groups.items():
            together = self._run_group(names, [feeds for _, feeds in group])
            for place, (index, _) in enumerate(group):
                answers[index] = together[place] if together else self._run_single(requests[index])
        return answers

    def _run_group(self, names: Sequence[str], feeds: Sequence[dict[str, Any]]) -> list[Any] | None:
        """Return the answers of one merged run; None if it failed or cannot be split."""
        if len(feeds) < 2:
            return None
        counts = [len(next(iter(feed.values()))) for feed in feeds]
        merged = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        try:
            arrays = self._run(list(names), merged, None)
        except Exception:
            # Running each request alone shows which one is at fault.
            return None
        if any(np.ndim(array) == 0 or len(array) != sum(counts) for array in arrays):
            return None
        parts = zip(*(np.split(array, np.cumsum(counts)[:-1]) for array in arrays), strict=True)
        return [self._response(names, part) for part in parts]

    def _feeds(self, request: Any) -> dict[str, Any]:
        feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if self._plain:
            return feeds
        for name in self._text.intersection(feeds):
            feeds[name] = _decode_text(name, feeds[name])
        for name in self._scalar_inputs.intersection(feeds):
            feeds[name] = feeds[name].reshape(())
        return feeds

    def _response(self, names: Iterable[str], arrays: Iterable[Any]) -> Any:
        if self._scalar_outputs:
            arrays = [
                np.asarray(array).reshape(self._scalar_outputs[name])
                if name in self._scalar_outputs
                else array
                for name, array in zip(names, arrays, strict=True)
            ]
        return pb.InferenceResponse(
            [pb.Tensor(n, array) for n, array in zip(names, arrays, strict=True)]
        )


def _error(error: Exception) -> Any:
    if isinstance(error, graph_config.BadEntry):
        return pb.TritonError(str(error), pb.TritonError.INVALID_ARG)
    return pb.TritonError(f"onnx runtime: {error}", pb.TritonError.INTERNAL)


def _decode_text(name: str, array: Any) -> Any:
    """Decode BYTES into objects of `str`, as ONNX Runtime accepts them from Python."""
    text = np.empty(array.size, dtype=np.object_)
    try:
        text[:] = [item.decode("utf-8") for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise graph_config.BadEntry(f"input '{name}' is not UTF-8 text: {error}") from error
    return text.reshape(array.shape)


def _session(path: Path, config: Mapping[str, Any]) -> ort.InferenceSession:
    import onnxruntime as ort

    if path.is_dir():
        path = path / _MODEL_FILE
    if not path.is_file():
        raise graph_config.BadEntry(f"there is no model file {path}")
    options = _session_options(config)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise graph_config.BadEntry(f"ONNX Runtime cannot load {path}: {error}") from error


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    levels = {
        -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = levels.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    mode = graph_config.integer(config, "execution_mode")
    if mode not in (0, 1):
        raise graph_config.BadEntry(f"parameter execution_mode is {mode}: give 0 or 1")
    if mode == 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.intra_op_num_threads = max(graph_config.integer(config, "intra_op_thread_count"), 0)
    options.inter_op_num_threads = max(graph_config.integer(config, "inter_op_thread_count"), 0)
    # The pool's threads would spin between requests and take the cores from Triton, the
    # gateway and the other instances, which share this machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = graph_config.boolean(config, "enable_mem_arena", default=True)
    options.enable_mem_pattern = graph_config.boolean(config, "enable_mem_pattern", default=True)
    return options


def _path_from_arguments() -> Path:
    """Return the model file, which a worker gets only on its command line during completion."""
    return Path(os.fsdecode(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1]))
