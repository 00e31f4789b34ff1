"""A Feast repository of a test's own: definitions that no model file makes."""

from __future__ import annotations

import runpy
from datetime import datetime
from pathlib import Path
from typing import Any

from platform_assets.resources.feast import FeastResource


def apply_definitions(feast: FeastResource, path: Path) -> None:
    """Run a file of definitions and apply what it defines."""
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView

    kinds = (Entity, FeatureView, OnDemandFeatureView, FeatureService)
    found = runpy.run_path(str(path)).values()
    feast.apply([one for one in found if isinstance(one, kinds)])


def materialize(feast: FeastResource, view: str, start: datetime, end: datetime) -> None:
    """Copy the newest values of a view in a span (UTC) to the online store, as Feast does."""
    from feast import FeatureStore

    store: Any = FeatureStore(repo_path=str(feast.home), fs_yaml_file=feast.render())
    store.materialize(start, end, feature_views=[view])
