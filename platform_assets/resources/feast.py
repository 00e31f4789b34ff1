"""Feast as the pipeline uses it: definitions applied by path, state in a directory of ours.

Importing Feast takes seconds, so it is imported when it is first needed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from dagster import ConfigurableResource
from pydantic import Field

if TYPE_CHECKING:
    import pandas as pd

CONFIG_NAME: Final = "feature_store.yaml"
_CONNECT_TIMEOUT: Final = 3.0
_ONLINE_STORES: Final = ("sqlite", "redis")


class FeatureStoreError(Exception):
    """Feast or one of its stores did not do what was asked; the message says what and why."""


class FeastResource(ConfigurableResource["FeastResource"]):
    """One feature store: definitions from `repo_path`, everything it writes in `state_dir`.

    Every method raises `FeatureStoreError`.
    """

    repo_path: str = Field(description="Directory of the Feast definitions (*.py).")
    state_dir: str = Field(description="Directory for registry, SQLite online store and data.")
    online_store: str = Field(default="sqlite", description="sqlite or redis.")
    redis: str = Field(
        default="",
        description="Redis of the online store: redis://[:password@]host:port[/db], or "
        "Feast's own form host:port,db=0,password=...",
    )
    project: str = Field(
        default="serving_platform",
        description="Feast project; two stacks that share a Redis need two names.",
    )

    @property
    def home(self) -> Path:
        """The state directory, absolute; the rendered feature_store.yaml stands in it."""
        return Path(self.state_dir).expanduser().absolute()

    @property
    def data_dir(self) -> Path:
        """Where the definitions look for the Parquet files of their sources."""
        return self.home / "data"

    def render(self) -> Path:
        """Write the effective feature_store.yaml into the state directory; return its path.

        The Feast command line, the gateway and this resource then read the same store.
        """
        online = self._online_lines()
        lines = [
            "# Rendered by the pipeline on every run; changes made here are lost.",
            f"project: {json.dumps(self.project)}",
            "provider: local",
            "registry:",
            # The SQL registry changes in transactions: a gateway that reads it meanwhile
            # never meets half a file.
            "  registry_type: sql",
            f"  path: {json.dumps(f'sqlite:///{self.home}/registry.db')}",
            "  cache_ttl_seconds: 60",
            "online_store:",
            *(f"  {line}" for line in online),
            "offline_store:",
            "  type: dask",
            "entity_key_serialization_version: 3",
        ]
        self.home.mkdir(parents=True, exist_ok=True)
        target = self.home / CONFIG_NAME
        text = "\n".join(lines) + "\n"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            _write_private(target, text)
        return target

    def _online_lines(self) -> list[str]:
        if self.online_store == "sqlite":
            return ["type: sqlite", f"path: {json.dumps(f'{self.home}/online.db')}"]
        if self.online_store == "redis":
            if not self.redis:
                raise FeatureStoreError("the online store is redis, but no address of it is given")
            return ["type: redis", f"connection_string: {json.dumps(_redis_string(self.redis))}"]
        raise FeatureStoreError(
            f"unknown online store {self.online_store!r}: one of {', '.join(_ONLINE_STORES)}"
        )

    def apply(self) -> None:
        """Make the registry say what the definitions in `repo_path` say."""
        store = self._store()
        with _translated(f"apply the definitions in {self.repo_path}"):
            store.apply(load_definitions(Path(self.repo_path).expanduser().absolute()))

    def service_features(self, feature_service: str) -> tuple[str, ...]:
        """Return the feature names of a feature service, in the order of its definition."""
        store = self._store()
        with _translated(f"look up feature service {feature_service}"):
            service = store.get_feature_service(feature_service)
            return tuple(
                feature.name
                for projection in service.feature_view_projections
                for feature in projection.features
            )

    def materialize(self, feature_view: str, start: datetime, end: datetime) -> None:
        """Copy the newest values in [start, end] (UTC) per entity to the online store."""
        self._probe_online()
        store = self._store()
        with _translated(f"materialize {feature_view} to {self.online_store}"):
            store.materialize(start, end, feature_views=[feature_view])

    def historical(self, entities: pd.DataFrame, feature_service: str) -> pd.DataFrame:
        """Join features to `entities` as they were known at each row's event timestamp.

        Args:
            entities: join key, `event_timestamp` (UTC) and any columns to keep.
            feature_service: whose features are joined.

        Returns:
            The columns of `entities` and one per feature. The order of rows and columns is
            Feast's own; a row that no observation precedes may be missing.
        """
        store = self._store()
        with _translated(f"join the features of {feature_service}"):
            service = store.get_feature_service(feature_service)
            frame: pd.DataFrame = store.get_historical_features(
                entity_df=entities, features=service
            ).to_df()
        return frame

    def online(self, join_key: str, ids: Sequence[int], feature_service: str) -> pd.DataFrame:
        """Read the online store: one row per id, in that order; nulls for unknown ids.

        The order of the columns is Feast's own, and differs between processes.
        """
        self._probe_online()
        store = self._store()
        with _translated(f"read {feature_service} from {self.online_store}"):
            service = store.get_feature_service(feature_service)
            frame: pd.DataFrame = store.get_online_features(
                features=service, entity_rows=[{join_key: int(one)} for one in ids]
            ).to_df()
        return frame

    def _store(self) -> Any:
        config = self.render()
        with _translated(f"open the feature store in {self.home}"):
            from feast import FeatureStore

            return FeatureStore(repo_path=str(self.home), fs_yaml_file=config)

    def _probe_online(self) -> None:
        # Redis that is gone without a trace would hold Feast's client up for minutes.
        if self.online_store != "redis":
            return
        host, _, port = _redis_string(self.redis).split(",")[0].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT).close()
        except (OSError, ValueError) as exc:
            raise FeatureStoreError(f"Redis at {host}:{port} does not answer: {exc}") from exc


def load_definitions(directory: Path) -> list[Any]:
    """Run the Python files of a Feast repository; return the objects that they define.

    Raises:
        FeatureStoreError: no such directory, nothing defined there, or a file that fails.
    """
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.data_source import DataSource

    kinds = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
    found: list[Any] = []
    for path in sorted(directory.glob("*.py")):
        for value in vars(_run_file(path)).values():
            if isinstance(value, kinds) and not any(value is one for one in found):
                found.append(value)
    if not found:
        raise FeatureStoreError(f"no Feast definitions in {directory}")
    return found


def _run_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_feature_repo_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FeatureStoreError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    with _translated(f"read the definitions in {path}"):
        spec.loader.exec_module(module)
    return module


def _redis_string(address: str) -> str:
    if not address.startswith(("redis://", "rediss://")):
        return address
    url = urlsplit(address)
    parts = [f"{url.hostname}:{url.port or 6379}"]
    if url.path.strip("/"):
        parts.append(f"db={url.path.strip('/')}")
    if url.username:
        parts.append(f"username={unquote(url.username)}")
    if url.password:
        parts.append(f"password={unquote(url.password)}")
    if url.scheme == "rediss":
        parts.append("ssl=true")
    return ",".join(parts)


def _write_private(target: Path, text: str) -> None:
    # Only for its owner: a Redis password may stand in it.
    staged = target.with_name(f".{target.name}.{os.getpid()}.part")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(target)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    # Feast lets the exceptions of whatever store it uses through (SQLAlchemy, sqlite3, redis,
    # pyarrow, pandas) and runs the definitions of the user: the one point that names them all.
    try:
        yield
    except FeatureStoreError:
        raise
    except Exception as exc:
        raise FeatureStoreError(f"Feast could not {doing}: {type(exc).__name__}: {exc}") from exc
