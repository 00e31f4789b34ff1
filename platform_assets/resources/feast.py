"""Feast as the pipeline uses it: one model at a time, state in a directory of ours.

Importing Feast takes seconds, so it is imported when it is first needed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from dagster import ConfigurableResource
from pydantic import Field

from platform_assets.resources.feast_rows import online_rows
from platform_assets.resources.redaction import without_secrets
from serving_gateway.contract import DType, Feature, feature_contract, import_feast

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CONFIG_NAME: Final = "feature_store.yaml"
_CONNECT_TIMEOUT: Final = 3.0
_ONLINE_STORES: Final = ("sqlite", "redis")
_DTYPES: Final = {
    "FLOAT": DType.FP32,
    "DOUBLE": DType.FP64,
    "INT64": DType.INT64,
    "BOOL": DType.BOOL,
    "STRING": DType.BYTES,
}
"""By Feast's value type."""


class FeatureStoreError(Exception):
    """Feast or one of its stores did not do what was asked; the message says what and why."""


class FeastResource(ConfigurableResource["FeastResource"]):
    """One feature store; everything that it writes stands in `state_dir`.

    Every method raises `FeatureStoreError`.
    """

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
            "  type: duckdb",
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
            return [
                "type: redis",
                f"connection_string: {json.dumps(_redis_string(self.redis))}",
                # The newest row of an entity is found before it is written. Feast's own way,
                # to drop what is not newer than the stored row, would keep a wrong value that
                # the source has corrected since, and for good where rows have no time.
                "skip_dedup: true",
            ]
        raise FeatureStoreError(
            f"unknown online store {self.online_store!r}: one of {', '.join(_ONLINE_STORES)}"
        )

    def apply(self, objects: Sequence[Any]) -> None:
        """Make the registry know these objects; others are left as they are."""
        store = self._store()
        with _translated(f"apply {', '.join(sorted({one.name for one in objects}))}"):
            store.apply([*objects])

    def service_contract(self, feature_service: str) -> str:
        """Return the `feature_contract` of what is registered: names and types, in order."""
        store = self._store()
        with _translated(f"look up feature service {feature_service}"):
            service = store.get_feature_service(feature_service)
            features = [
                (feature.name, feature.dtype.to_value_type().name)
                for projection in service.feature_view_projections
                for feature in projection.features
            ]
        unknown = [f"{name} ({kind})" for name, kind in features if kind not in _DTYPES]
        if unknown:
            raise FeatureStoreError(
                f"feature service {feature_service} has features that no model can read: "
                f"{', '.join(unknown)}"
            )
        return feature_contract([Feature(name, _DTYPES[kind]) for name, kind in features])

    def write_online(
        self,
        feature_view: str,
        batches: Iterable[pa.RecordBatch],
        span: tuple[datetime, datetime],
    ) -> None:
        """Put rows into the online store, whatever it holds of their entities.

        Args:
            feature_view: its columns are expected in the batches: join key, event timestamp
                and features, in their types.
            batches: at most one row per entity in all of them.
            span: first and last event time (UTC), for Feast's own record of what it served.
        """
        self._probe_online()
        store = self._store()
        with _translated(f"materialize {feature_view} to {self.online_store}"):
            view = store.get_feature_view(feature_view)
            for batch in batches:
                rows = online_rows(batch, view)
                store.provider.online_write_batch(store.config, view, rows, None)
            store.registry.apply_materialization(view, store.project, *span)

    def historical(self, entities: pd.DataFrame, feature_service: str) -> pd.DataFrame:
        """Join features to `entities` as they were known at each row's event timestamp.

        Args:
            entities: join key, `event_timestamp` (UTC) and any columns to keep.
            feature_service: whose features are joined.

        Returns:
            The columns of `entities` and one per feature, texts as categories. The order of
            rows and columns is Feast's own; a row that no observation precedes may be missing.
        """
        store = self._store()
        with _translated(f"join the features of {feature_service}"), _own_duckdb():
            service = store.get_feature_service(feature_service)
            table = store.get_historical_features(entity_df=entities, features=service).to_arrow()
            # Many rows share a text. Each column is let go once it is converted.
            joined: pd.DataFrame = table.to_pandas(
                strings_to_categorical=True, split_blocks=True, self_destruct=True
            )
        return joined

    def online(self, join_key: str, ids: Sequence[int | str], feature_service: str) -> pd.DataFrame:
        """Read the online store: one row per id, in that order; None for what it lacks.

        The values are Python's own. The order of the columns is Feast's, and differs between
        processes.
        """
        import pandas as pd

        self._probe_online()
        store = self._store()
        with _translated(f"read {feature_service} from {self.online_store}"):
            service = store.get_feature_service(feature_service)
            columns = store.get_online_features(
                features=service, entity_rows=[{join_key: one} for one in ids]
            ).to_dict()
        return pd.DataFrame(columns, dtype=object)

    def _store(self) -> Any:
        config = self.render()
        with _translated(f"open the feature store in {self.home}"):
            import_feast()
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
            place = without_secrets(f"{host}:{port}", os.environ)
            raise FeatureStoreError(f"Redis at {place} does not answer: {exc}") from exc


@contextmanager
def _own_duckdb() -> Iterator[None]:
    """Let Feast's offline store use a database that is closed afterwards.

    ibis would keep the one that it opens by itself, and that keeps the files that it read.
    """
    import ibis  # type: ignore[import-untyped] # its annotations are not published

    usual = ibis.options.default_backend
    own = ibis.duckdb.connect(enable_external_file_cache=False)
    ibis.set_backend(own)
    try:
        yield
    finally:
        ibis.options.default_backend = usual
        own.disconnect()


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
    # pyarrow, pandas): the one point that names them all.
    try:
        yield
    except FeatureStoreError:
        raise
    except Exception as exc:
        reason = without_secrets(f"{type(exc).__name__}: {exc}", os.environ)
        raise FeatureStoreError(f"Feast could not {doing}: {reason}") from exc
