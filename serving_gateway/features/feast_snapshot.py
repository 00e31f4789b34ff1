"""Feast's configuration and definitions as they are at one moment.

Opening blocks and takes seconds, so it runs in a thread, never on the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features import feast_internals
from serving_gateway.features.redis_layout import derive_layout, probe_ids
from serving_gateway.features.service_plan import ServicePlan, View, make_plan
from serving_gateway.features.types import LookupRequest, ServiceUnusable

log = logging.getLogger(__name__)

READING: Final = "read the online store"
CONFIG_NAME: Final = "feature_store.yaml"
_SQLITE_URL: Final = "sqlite:///"


class FeastSnapshot:
    """The feature store at one moment: its configuration, and the plans of services by name.

    Args:
        config: Feast's.
        services: what was looked up; an error for a service that cannot be read.
    """

    def __init__(self, config: Any, services: dict[str, ServicePlan | GatewayError]) -> None:
        self.config = config
        self.services = services

    @property
    def address(self) -> str | None:
        """The connection string of a Redis."""
        return getattr(self.config.online_store, "connection_string", None)

    def keep_plans_of(self, former: FeastSnapshot) -> None:
        """Keep what was planned before, where the registry could not be read now."""
        for name, plan in [*self.services.items()]:
            known = former.services.get(name)
            if type(plan) is FeaturesUnavailable and isinstance(known, ServicePlan):
                self.services[name] = known

    def has(self, service: str, names: tuple[str, ...]) -> bool:
        """Whether these features can be read."""
        plan = self.services.get(service)
        return isinstance(plan, ServicePlan) and not plan.missing(names)

    def is_readable(self, service: str) -> bool:
        """Whether a service was found and can be read."""
        return isinstance(self.services.get(service), ServicePlan)

    def sample(self, service: str) -> LookupRequest | None:
        """A harmless read of a service; None when it cannot be read."""
        plan = self.services.get(service)
        if not isinstance(plan, ServicePlan):
            return None
        return LookupRequest(service, plan.sample_names, (plan.sample_id,))

    def plan(self, service: str) -> ServicePlan:
        """How to read a service.

        Raises:
            ServiceUnusable, FeaturesUnavailable: it cannot be read.
        """
        plan = self.services.get(service)
        if plan is None:
            raise ServiceUnusable(f"Feature service {service} was not looked up yet.")
        if isinstance(plan, GatewayError):
            raise type(plan)(plan.message)
        return plan


def open_snapshot(home: Path, services: Sequence[str], socket_seconds: float) -> FeastSnapshot:
    """Import Feast, and read configuration and definitions anew: files may have been replaced.

    Args:
        home: directory of feature_store.yaml.
        services: feature services to look up.
        socket_seconds: limit for one answer of Redis, unless its connection string has one.

    Raises:
        FeaturesUnavailable: they are not there, or cannot be read.
    """
    with feast_errors_translated("be imported"):
        # It takes seconds and needs no store, so it is not left to the first one that is there.
        import yaml
        from feast import FeatureStore, RepoConfig
    path = home / CONFIG_NAME
    if not path.is_file():
        raise FeaturesUnavailable(
            f"There is no feature store yet: {path} is written by the pipeline."
        )
    with feast_errors_translated(f"open the feature store of {path}"):
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Rows of the past are not looked up here, so what can do that is neither imported nor
        # installed.
        written.pop("offline_store", None)
        store = FeatureStore(config=RepoConfig(**written, repo_path=home))
        _require_files(home, store.config)
        _limit_redis(store.config.online_store, socket_seconds)
        # Imports what reads will need, here where no request waits for it.
        feast_internals.new_online_store(store.config)
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
            plan = make_plan(service, tables)
            if feast_internals.is_plain_redis(store.config):
                return plan.with_views(
                    [_with_layout(store.config, plan, one) for one in plan.views]
                )
            return plan
    except GatewayError as error:
        if isinstance(error.__cause__, FeatureServiceNotFoundException):
            return ServiceUnusable(_first_line(error.__cause__))
        log.warning("a feature service cannot be read", extra={"reason": error.message})
        return error


def _with_layout(config: Any, plan: ServicePlan, view: View) -> View:
    """A view with its layout in Redis; without, where Feast's format is not the known one."""
    keys = plan.entity_keys(view.join_key, probe_ids(plan.id_type))
    layout = None
    with suppress(Exception):  # of code that is not public
        reads = feast_internals.redis_reads(config, view.table, keys, view.features)
        layout = derive_layout(plan.id_type, view.features, reads)
    if layout is None and view.features:
        log.warning("Feast's layout in Redis is unknown; it is read by Feast, which is slower")
    return msgspec.structs.replace(view, layout=layout)


def _require_files(home: Path, config: Any) -> None:
    """Refuse local files that are not there yet: opening would create them, empty."""
    registry = str(config.registry.path)
    paths = [registry.removeprefix(_SQLITE_URL)] if registry.startswith(_SQLITE_URL) else []
    if config.online_store.type == "sqlite":
        paths.append(config.online_store.path)
    for path in paths:
        if not (home / path).is_file():
            raise FeaturesUnavailable(
                f"There is no feature store yet: {home / path} is written by the pipeline."
            )


def _limit_redis(online: Any, seconds: float) -> None:
    """Make Redis's client disconnect a server that hangs, and not retry it several times."""
    if online.type != "redis":
        return
    given = {part.partition("=")[0] for part in online.connection_string.split(",")}
    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": "null"}
    parts = [f"{name}={value}" for name, value in limits.items() if name not in given]
    # Replies in order and nothing between them, as a pipeline expects; the last one counts.
    parts.append("protocol=2")
    online.connection_string = ",".join([online.connection_string, *parts])


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
    except GatewayError:
        raise
    except Exception as error:
        raise feast_failure(doing, error) from error
