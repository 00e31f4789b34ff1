"""The half of the Feast adapter that blocks: opening a store, and reading rows of it.

Runs in threads of the adapter's own, never on the event loop. Feast is asked on the level of
its online stores, whose `online_read` answers a timestamp and values per key: Feast's own
assembling of an answer costs as much again, and leaves the TTL of a view out of account.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from serving_gateway.errors import FeaturesUnavailable, GatewayError
from serving_gateway.features.feast_plan import Plan, Question, Read, assemble, make_plan
from serving_gateway.features.types import Found, ServiceUnusable

READING: Final = "read the online store"
CONFIG_NAME: Final = "feature_store.yaml"
_SQLITE_URL: Final = "sqlite:///"


class Opened:
    """The feature store as it was at one moment: its configuration, and services by name."""

    def __init__(self, config: Any, services: dict[str, Plan | ServiceUnusable]) -> None:
        self.config = config
        self.services = services

    def has(self, service: str, names: tuple[str, ...]) -> bool:
        """Whether these features can be read."""
        plan = self.services.get(service)
        return isinstance(plan, Plan) and not plan.lacks(names)

    def readable(self, service: str) -> bool:
        """Whether a service was found, and can be read."""
        return isinstance(self.services.get(service), Plan)

    def sample(self, service: str) -> Question | None:
        """A harmless question to a service; None when it cannot be read."""
        plan = self.services.get(service)
        return plan.sample() if isinstance(plan, Plan) else None

    def plan(self, service: str) -> Plan:
        """How to read a service.

        Raises:
            ServiceUnusable: it cannot be read.
        """
        plan = self.services.get(service)
        if plan is None:
            raise ServiceUnusable(f"Feature service {service} was not looked up yet.")
        if isinstance(plan, ServiceUnusable):
            raise ServiceUnusable(plan.message)
        return plan


class OnlineStores:
    """Feast's online store of each thread: their connections are not made to be shared."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[Any] = []

    def get(self, opened: Opened) -> Any:
        """This thread's; another one than before once the store was opened anew."""
        if getattr(self._own, "opened", None) is not opened:
            from feast.infra.online_stores.helpers import get_online_store_from_config

            old = getattr(self._own, "store", None)
            self._own.store = get_online_store_from_config(opened.config.online_store)
            self._own.opened = opened
            with self._lock:
                self._all = [one for one in self._all if one is not old] + [self._own.store]
            _close(old)
        return self._own.store

    def close(self) -> None:
        """Close those of all threads."""
        with self._lock:
            stores, self._all = self._all, []
        for store in stores:
            _close(store)


def _close(store: Any) -> None:
    """Close the connections of an online store; Feast has no call for it."""
    for name in ("_conn", "_client"):
        connection = getattr(store, name, None)
        if connection is not None:
            # Of no use any more, whatever state it is in.
            with suppress(Exception):
                connection.close()


def import_feast() -> None:
    """Import Feast, which takes seconds.

    Raises:
        FeaturesUnavailable: it is not there, or cannot be imported.
    """
    with translated("be imported"):
        import feast  # noqa: F401


def open_store(home: Path, wanted: Sequence[str], socket_seconds: float) -> Opened:
    """Read configuration and definitions. Anew each time, whatever was replaced meanwhile.

    Args:
        home: directory of feature_store.yaml.
        wanted: feature services to look up.
        socket_seconds: limit for one answer of Redis, unless its connection string has one.

    Raises:
        FeaturesUnavailable: they are not there, or cannot be read.
    """
    path = home / CONFIG_NAME
    if not path.is_file():
        raise FeaturesUnavailable(
            f"There is no feature store yet: {path} is written by the pipeline."
        )
    with translated(f"open the feature store of {path}"):
        import yaml
        from feast import FeatureStore, RepoConfig
        from feast.infra.online_stores.helpers import get_online_store_from_config

        written = yaml.safe_load(path.read_text(encoding="utf-8"))
        # Rows of the past are not looked up here, so what can do that is neither imported nor
        # installed.
        written.pop("offline_store", None)
        store = FeatureStore(config=RepoConfig(**written, repo_path=home))
        _require_files(home, store.config)
        _limit_redis(store.config.online_store, socket_seconds)
        # Imports what reads will need, here where nobody waits for it.
        get_online_store_from_config(store.config.online_store)
        return Opened(store.config, {name: _look_up(store, name) for name in wanted})


def read_rows(stores: OnlineStores, opened: Opened, question: Question) -> list[Found]:
    """Read view by view, by the calling thread's own store.

    Raises:
        InvalidEntityIds, ServiceUnusable, FeaturesUnavailable: as `FeatureStore.read`.
    """
    reads = ask(opened, question)
    with translated(READING):
        online = stores.get(opened)
        answers = [
            online.online_read(opened.config, read.view.table, keys, [*read.features])
            for read, keys in reads
        ]
        return assemble(question, [read for read, _ in reads], answers)


def ask(opened: Opened, question: Question) -> list[tuple[Read, list[Any]]]:
    """What to read, view by view, and Feast's keys to read it by.

    Raises:
        InvalidEntityIds, ServiceUnusable: as `FeatureStore.read`.
    """
    plan, ids = opened.plan(question.service), question.ids
    reads = plan.reads(question.names)
    plan.check(ids)
    with translated(READING):
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        return [(read, plan.keys(read.view.join_key, ids, EntityKey, Value)) for read in reads]


def _look_up(store: Any, name: str) -> Plan | ServiceUnusable:
    """Look a service up in the registry itself, not in Feast's cache of it."""
    from feast.errors import FeatureServiceNotFoundException

    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        return ServiceUnusable(_first_line(error))
    views: list[Any] = []
    for projection in service.feature_view_projections:
        view = store.registry.get_any_feature_view(projection.name, store.project)
        views.append(view.with_projection(projection))
    try:
        return make_plan(service, views)
    except ServiceUnusable as error:
        return error


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
    """Make Redis's client give up a server that hangs, and not try it several times over."""
    if online.type != "redis":
        return
    given = {part.partition("=")[0] for part in online.connection_string.split(",")}
    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": "null"}
    parts = [f"{name}={value}" for name, value in limits.items() if name not in given]
    online.connection_string = ",".join([online.connection_string, *parts])


def _first_line(error: Exception) -> str:
    """What a foreign error says; its further lines may quote the configuration, so secrets."""
    return (str(error).splitlines() or [""])[0][:300]


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn whatever goes wrong in here into `FeaturesUnavailable`; errors of ours pass."""
    # Feast lets the exceptions of whatever store it uses through (sqlite3, SQLAlchemy, redis,
    # pydantic), and its own are of no common root: the one point that names them all.
    try:
        yield
    except GatewayError:
        raise
    except Exception as exc:
        raise FeaturesUnavailable(
            f"Feast could not {doing}: {type(exc).__name__}: {_first_line(exc)}"
        ) from exc
