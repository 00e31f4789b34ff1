"""Model files: one YAML file makes a model, checked with file, line and field."""

from platform_assets.components.component import FeatureTable, TabularModel
from platform_assets.components.platform import Platform

__all__ = ["FeatureTable", "Platform", "TabularModel"]
