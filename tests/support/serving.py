"""The packaging and the loading of versions as the assets do it, on one real Triton."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import psutil

from platform_assets.export.inspection import inspect_graph, sha256
from platform_assets.export.records import PackagedVersion
from platform_assets.export.triton_config import ServingOptions, model_config, to_text
from platform_assets.resources.model_repository import ModelRepository, Provenance
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.loading import load_beside, persisted_versions
from platform_assets.serving.records import ServingState
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.onnx_models import telltale
from tests.support.servers import RunningTriton

ROW = {"features": np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)}


class Serving:
    """A Triton of the test's own with the resources that the assets use.

    Control calls go over HTTP unless `is_over_grpc`, as they do where the platform runs.
    """

    def __init__(self, running: RunningTriton, *, is_over_grpc: bool = False) -> None:
        self.running = running
        self.triton = TritonResource(
            url=running.http_url,
            grpc_url=running.grpc_url if is_over_grpc else "",
            control_key=running.control_key,
        )
        self.repository = ModelRepository(root=str(running.repository))
        self.lines: list[str] = []
        """What loads have said."""

    def package(
        self, version: int, options: ServingOptions | None = None, graph: bytes | None = None
    ) -> PackagedVersion:
        """Write the directory of a version: `graph` in it, or a telltale when none is given."""
        summary = inspect_graph(telltale(version))
        graph = telltale(version) if graph is None else graph
        digest = sha256(graph)
        self.repository.package(
            graph, Provenance(DEFAULT_MODEL, version, f"run-{version}", digest, "f", "test")
        )
        config = model_config(
            DEFAULT_MODEL, summary.inputs, summary.outputs, [version], options or ServingOptions()
        )
        return PackagedVersion(DEFAULT_MODEL, version, f"run-{version}", digest, to_text(config))

    def load(self, packaged: PackagedVersion, timeout_s: float = 60) -> ServingState:
        """Load a version beside those that serve; `timeout_s` is for READY after the load."""
        return load_beside(
            packaged,
            triton=self.triton,
            repository=self.repository,
            timeout_s=timeout_s,
            log=self.lines.append,
        )

    def answer(self, version: int) -> int:
        """The version that a version's model says it is."""
        answer = self.triton.endpoints()[0].infer(DEFAULT_MODEL, version, ROW, ["label"])
        return int(answer["label"].ravel()[0])

    @property
    def persisted(self) -> tuple[int, ...]:
        """Versions that a restart would load."""
        return persisted_versions(self.repository, DEFAULT_MODEL)

    @property
    def ready(self) -> tuple[int, ...]:
        """Versions that Triton reports READY."""
        return self.triton.ready_versions(DEFAULT_MODEL)


def workers(server: RunningTriton) -> dict[int, int]:
    """Version -> process id of its worker, also of one that is still loading."""
    found: dict[int, int] = {}
    for process in server.process.server.children():
        # A retired version's worker may end while we look.
        with contextlib.suppress(psutil.NoSuchProcess):
            command = process.cmdline()
            # One that was just forked still has the command of the server.
            if len(command) > 1 and (folder := Path(command[1]).parent.name).isdecimal():
                found[int(folder)] = process.pid
    return found
