"""The Dagster component with what all models of a code location share."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg

from platform_assets.components.loading import read_models


@dataclass
class Platform(dg.Component, dg.Resolvable):
    """The clients of MLflow, Feast, Triton and the gateway, and what watches the models.

    A project with models has one of it. The addresses are environment variables, as `make up`
    sets them.
    """

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """Return who owns the component and how it is found."""
        return dg.ComponentTypeSpec(owners=["team:ml-platform"], tags=["model", "resources"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return resources, sensors and schedules for the models beside this component."""
        # Imported here, as in `build_definitions`: checking model files does not need it.
        from platform_assets.shared_definitions import monitoring_definitions, resources

        own = context.path if context.path.is_dir() else context.path.parent
        read = read_models(own.parent)
        # The project has an executor of its own, or Dagster's.
        shared = resources().resources or {}
        return dg.Definitions.merge(
            monitoring_definitions([*read.specs.values()], [*read.tables.values()]),
            dg.Definitions(resources=shared),
        )
