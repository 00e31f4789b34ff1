"""The Dagster code location: the models of all model files, their sensors, the resources."""

from __future__ import annotations

from functools import cache

import dagster as dg

from platform_assets import model_definitions
from platform_assets.components.defining import define_models
from platform_assets.components.loading import Models, read_models
from platform_assets.shared_definitions import monitoring_definitions, resources


@cache
def models() -> Models:
    """Return the models of all model files, read once per process."""
    return read_models()


@cache
def model_parts() -> dg.Definitions:
    """All models and what watches them; what runs the steps is not said here."""
    read = models()
    built = define_models(read, model_definitions.build)
    shared = monitoring_definitions([*read.specs.values()], [*read.tables.values()])
    return dg.Definitions.merge(built, shared)


defs = dg.Definitions.merge(model_parts(), resources())
