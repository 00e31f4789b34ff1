"""Import what runs need; the process from which they are forked loads this module.

The garbage collector is off meanwhile, which saves a quarter of the time. Afterwards it ignores the
imported objects: by writing to them, it would give each run a copy.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module
from typing import Final

from platform_assets.local_stack.migrations import read_ahead, read_migrations_once
from serving_gateway.contract import import_feast

_LIBRARIES: Final = (
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "dagster._grpc.impl",
    "feast.infra.data_sources.mlflow",
    "feast.infra.offline_stores.dask",
    "feast.infra.online_stores.redis",
    "feast.infra.online_stores.sqlite",
    "feast.infra.passthrough_provider",
    "feast.infra.registry.sql",
    "httpx",
    "ibis.backends.duckdb",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.sklearn",
    "onnxruntime",
    "platform_assets.components.defining",
    "platform_assets.model_definitions",
    "platform_assets.shared_definitions",
    "pyarrow.parquet",
    "scipy.stats",
    "skl2onnx",
    "sklearn.discriminant_analysis",
    "sklearn.ensemble",
    "sklearn.inspection",
    "tritonclient.grpc",
    "tritonclient.http",
)
"""Slow modules among those that the steps of a chain import."""


def _import_libraries() -> None:
    gc.disable()
    try:
        # Import it first: for each of hundreds of names, it searches all loaded modules.
        import_module("skops.io")
        import_feast()
        for module in _LIBRARIES:
            import_module(module)
        read_migrations_once()
        read_ahead()
        # It lists the modules of all installed packages once; saving a model needs that list.
        requirements = import_module("mlflow.utils.requirements_utils")
        requirements.warn_dependency_requirement_mismatches(["mlflow"])
    finally:
        gc.enable()
    gc.freeze()


_import_libraries()
# After a fork, Python reseeds its own generator, but NumPy does not reseed its global one.
os.register_at_fork(after_in_child=import_module("numpy.random").seed)
