"""Feast's configuration and definitions at one moment; opening them blocks, so use a thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from serving_gateway.contract import import_feast
from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.blocking_reader import new_online_store
from serving_gateway.features.feast_redis import limit_redis
from serving_gateway.features.service_plan import ServicePlan, make_plan
from serving_gateway.features.types import ServiceUnusable, feast_failure

log = logging.getLogger(__name__)

Plans: TypeAlias = dict[str, ServicePlan | GatewayError]
"""How feature services are read, by name; an error for one that cannot be read."""


def open_plans(home: Path, services: Sequence[str]) -> Plans | GatewayError:
    """Import Feast, and read configuration and definitions anew: files may have been replaced.

    Returns an error where `home` has none yet, or they cannot be read.
    """
    try:
        # The import takes seconds and needs no store, so it does not wait for one to exist.
        import_feast()
        import yaml
        from feast import FeatureStore, RepoConfig

        path = home / "feature_store.yaml"
        _require_file(path)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Historical rows are not looked up here, so the code for offline stores is neither imported
        # nor installed.
        config.pop("offline_store", None)
        store = FeatureStore(config=RepoConfig(**config, repo_path=home))
        _require_stores(home, store.config)
        limit_redis(store.config)
        # Imports what reads will need now, while no request waits for it.
        new_online_store(store.config)
        try:
            return {name: _plan_service(store, name) for name in services}
        finally:
            _disconnect(store.registry)
    except Exception as error:
        return feast_failure(f"open the feature store of {home}", error)


def _plan_service(store: Any, name: str) -> ServicePlan | GatewayError:
    """Plan a service by the registry itself, not Feast's cache; an unusable one fails alone."""
    from feast.errors import FeatureServiceNotFoundException

    try:
        service = store.get_feature_service(name)
        tables = [
            store.registry.get_any_feature_view(one.name, store.project).with_projection(one)
            for one in service.feature_view_projections
        ]
        return make_plan(store.config, service, tables)
    except FeatureServiceNotFoundException as error:
        return ServiceUnusable(str(error))
    except Exception as error:
        failure = feast_failure(f"look feature service {name} up", error)
        log.warning("a feature service cannot be read", extra={"reason": failure.message})
        return failure


def _disconnect(registry: Any) -> None:
    """Close the connections of an SQL registry, which would stay open until it is collected."""
    for name in ("read_engine", "write_engine"):
        if (engine := getattr(registry, name, None)) is not None:
            engine.dispose()


def _require_stores(home: Path, config: Any) -> None:
    """Refuse local files that do not exist yet: opening would create them, empty."""
    kind, _, registry = str(config.registry.path).partition(":///")
    if kind == "sqlite":
        _require_file(home / registry)
    if config.online_store.type == "sqlite":
        _require_file(home / config.online_store.path)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FeaturesUnavailable(
            f"There is no feature store yet: {path} is written by the pipeline."
        )
