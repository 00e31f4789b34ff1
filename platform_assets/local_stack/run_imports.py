"""Imports what runs need: the process that they are forked from loads this module.

The garbage collector is off meanwhile, which saves a quarter of the time, and later leaves alone
what was imported: runs that wrote to these objects would have copies of them.
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
"""What the steps of a chain import when they run, by the modules that take long."""


def _import_libraries() -> None:
    gc.disable()
    try:
        # It searches all modules that are there for each of hundreds of names: so it is the first.
        import_module("skops.io")
        import_feast()
        for module in _LIBRARIES:
            import_module(module)
        read_migrations_once()
        read_ahead()
        # It lists the modules of all installed packages, once, and is asked of each saved model.
        requirements = import_module("mlflow.utils.requirements_utils")
        requirements.warn_dependency_requirement_mismatches(["mlflow"])
    finally:
        gc.enable()
    gc.freeze()


_import_libraries()
# After a fork Python seeds its own generator anew, and NumPy does not seed its global one.
os.register_at_fork(after_in_child=import_module("numpy.random").seed)
