"""The Dagster code location: the models of all model files, what watches them, the resources."""

from __future__ import annotations

from functools import cache

import dagster as dg

from platform_assets import model_definitions
from platform_assets.components.loading import load_models, load_specs
from platform_assets.shared_definitions import resources, watching


@cache
def models() -> dg.Definitions:
    """All models and what watches them; what runs the steps is not said here."""
    return dg.Definitions.merge(load_models(model_definitions.build), watching(load_specs()))


defs = dg.Definitions.merge(models(), resources())
