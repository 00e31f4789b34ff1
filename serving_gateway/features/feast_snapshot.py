"""Feast's configuration and definitions as they are at one moment.

Opening blocks and takes seconds, so it runs in a thread, never on the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.blocking_reader import new_online_store
from serving_gateway.features.feast_redis import SOCKET_SECONDS
from serving_gateway.features.service_plan import ServicePlan, make_plan
from serving_gateway.features.types import ServiceUnusable

log = logging.getLogger(__name__)


class FeastSnapshot(NamedTuple):
    """The feature store at one moment."""

    config: Any
    """Feast's."""
    services: dict[str, ServicePlan | GatewayError]
    """Those that were looked up; an error for one that cannot be read."""

    def plan(self, service: str) -> ServicePlan:
        """How to read a service; `ServiceUnusable` or `FeaturesUnavailable` if it cannot be."""
        plan = self.services.get(service)
        if isinstance(plan, GatewayError):
            raise type(plan)(plan.message)
        if plan is None:
            raise ServiceUnusable(f"Feature service {service} was not looked up yet.")
        return plan

    def has(self, service: str, names: tuple[str, ...] = ()) -> bool:
        """Whether a service, and these features of it, can be read."""
        plan = self.services.get(service)
        return isinstance(plan, ServicePlan) and plan.has(names)


def open_snapshot(home: Path, services: Sequence[str]) -> FeastSnapshot:
    """Import Feast, and read configuration and definitions anew: files may have been replaced.

    Raises `FeaturesUnavailable` where they are not there, or cannot be read.
    """
    with feast_errors_translated("be imported"):
        # It takes seconds and needs no store, so it is not left to the first one that is there.
        import yaml
        from feast import FeatureStore, RepoConfig
    path = home / "feature_store.yaml"
    _require_file(path)
    with feast_errors_translated(f"open the feature store of {path}"):
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Rows of the past are not looked up here, so what can do that is neither imported nor
        # installed.
        written.pop("offline_store", None)
        store = FeatureStore(config=RepoConfig(**written, repo_path=home))
        # Opening would create files that are not there yet, empty.
        kind, _, registry = str(store.config.registry.path).partition(":///")
        if kind == "sqlite":
            _require_file(home / registry)
        online = store.config.online_store
        if online.type == "sqlite":
            _require_file(home / online.path)
        elif online.type == "redis":
            online.connection_string = _limited(online.connection_string)
        # Imports what reads will need, here where no request waits for it.
        new_online_store(store.config)
        return FeastSnapshot(store.config, {name: _plan_service(store, name) for name in services})


def _plan_service(store: Any, name: str) -> ServicePlan | GatewayError:
    """Plan a service as it is in the registry itself, not in Feast's cache of it.

    A service that cannot be understood fails alone; the others are served.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        with feast_errors_translated(f"look feature service {name} up"):
            service = store.get_feature_service(name)
            tables = [
                store.registry.get_any_feature_view(one.name, store.project).with_projection(one)
                for one in service.feature_view_projections
            ]
            return make_plan(store.config, service, tables)
    except GatewayError as error:
        if isinstance(error.__cause__, FeatureServiceNotFoundException):
            return ServiceUnusable(_first_line(error.__cause__))
        log.warning("a feature service cannot be read", extra={"reason": error.message})
        return error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FeaturesUnavailable(
            f"There is no feature store yet: {path} is written by the pipeline."
        )


def _limited(connection_string: str) -> str:
    """Make Redis's client disconnect a server that hangs, and not retry it several times."""
    given = {part.partition("=")[0] for part in connection_string.split(",")}
    limit = str(SOCKET_SECONDS)
    limits = {"socket_timeout": limit, "socket_connect_timeout": limit, "retry": "null"}
    parts = [f"{name}={value}" for name, value in limits.items() if name not in given]
    # Replies in order and nothing between them, as a pipeline expects; the last one counts.
    return ",".join([connection_string, *parts, "protocol=2"])


def _first_line(error: BaseException) -> str:
    """What a foreign error says; its further lines may quote the configuration, so secrets."""
    return (str(error).splitlines() or [""])[0][:300]


def feast_failure(doing: str, error: Exception) -> GatewayError:
    """The error of ours for any exception of Feast or of the store behind it."""
    # Feast lets the exceptions of its stores through (sqlite3, SQLAlchemy, redis, pydantic), and
    # its own have no common root: this is the one place that translates them all.
    if isinstance(error, GatewayError):
        return error
    failure = FeaturesUnavailable(
        f"Feast could not {doing}: {type(error).__name__}: {_first_line(error)}"
    )
    failure.__cause__ = error
    return failure


@contextmanager
def feast_errors_translated(doing: str) -> Iterator[None]:
    """Raise `FeaturesUnavailable` for any error in this block; errors of ours pass."""
    try:
        yield
    except Exception as error:
        raise feast_failure(doing, error)  # noqa: B904 -- it has its cause
