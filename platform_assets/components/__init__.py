"""Model files: one YAML file makes a model, checked with file, line and field."""

from platform_assets.components.component import TabularModel

__all__ = ["TabularModel"]
