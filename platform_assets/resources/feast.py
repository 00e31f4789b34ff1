"""Feast as the pipeline uses it: one model at a time, state in a directory of ours.

Importing Feast takes seconds, so it is imported when it is first needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource
from pydantic import Field

from platform_assets.resources.atomic_files import replace_file
from platform_assets.resources.feast_errors import FeatureStoreError, translated
from platform_assets.resources.feast_online import OnlineView, use_write_ahead_log
from platform_assets.resources.file_lock import exclusive
from platform_assets.resources.redis_address import connection_string, require_redis
from serving_gateway.contract import DType, Feature, feature_contract, import_feast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeastResource", "FeatureStoreError"]

CONFIG_NAME: Final = "feature_store.yaml"
MODEL_TAG: Final = "model_name"
"""Tag of a feature service: the model whose versions read it."""
_LOCK_SECONDS: Final = 60
"""Longest wait for another chain's change of the registry."""
VALUE_TYPES: Final = {
    DType.FP32: "FLOAT",
    DType.FP64: "DOUBLE",
    DType.INT64: "INT64",
    DType.BOOL: "BOOL",
    DType.BYTES: "STRING",
}
"""Names of Feast's value types."""


class FeastResource(ConfigurableResource["FeastResource"]):
    """One feature store; everything that it writes is in `state_dir`.

    Every method raises `FeatureStoreError`.
    """

    state_dir: str = Field(description="Directory for registry, SQLite online store and data.")
    online_store: str = Field(default="sqlite", description="sqlite or redis.")
    redis: str = Field(
        default="",
        description="Redis of the online store, as redis://[[user]:password@]host[:port][/db], "
        "rediss:// or unix://, with the options of Redis's client behind a question mark.",
    )
    project: str = Field(
        default="serving_platform",
        description="Feast project; two stacks that share a Redis need two names.",
    )

    @property
    def home(self) -> Path:
        """The state directory, absolute; it holds the rendered feature_store.yaml."""
        return Path(self.state_dir).expanduser().absolute()

    @property
    def data_dir(self) -> Path:
        """Where the definitions look for the Parquet files of their sources."""
        return self.home / "data"

    def render(self) -> Path:
        """Write the effective feature_store.yaml into the state directory; return its path.

        The Feast command line, the gateway and this resource then read the same store.
        """
        config = {
            "project": self.project,
            "provider": "local",
            # The SQL registry changes in transactions: a gateway that reads it meanwhile
            # never meets half a file.
            "registry": {
                "registry_type": "sql",
                "path": f"sqlite:///{self.home}/registry.db",
                "cache_ttl_seconds": 60,
                "sqlalchemy_config_kwargs": {"connect_args": {"timeout": _LOCK_SECONDS}},
            },
            "online_store": self._online_config(),
            "offline_store": {"type": "duckdb"},
            "entity_key_serialization_version": 3,
        }
        self.home.mkdir(parents=True, exist_ok=True)
        target = self.home / CONFIG_NAME
        # JSON is YAML, too.
        text = "# Rendered by the pipeline on every run; changes made here are lost.\n"
        text += json.dumps(config, indent=2) + "\n"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            # Only for its owner: it may hold a Redis password.
            replace_file(target, text.encode(), mode=0o600)
        return target

    def _online_config(self) -> dict[str, object]:
        if self.online_store == "sqlite":
            return {"type": "sqlite", "path": f"{self.home}/online.db"}
        if self.online_store != "redis":
            raise FeatureStoreError(
                f"unknown online store {self.online_store!r}: use sqlite or redis"
            )
        if not self.redis:
            raise FeatureStoreError("the online store is redis, but no address of it is given")
        # The newest row of an entity is found before it is written. Feast's own way, to drop what
        # is not newer than the stored row, would keep a wrong value that the source has corrected
        # since, and for good where rows have no time.
        address = connection_string(self.redis)
        return {"type": "redis", "connection_string": address, "skip_dedup": True}

    def apply(self, objects: Sequence[Any]) -> None:
        """Make the registry know these objects; others are left as they are."""
        self.render()
        names = ", ".join(sorted({one.name for one in objects}))
        with translated(f"apply {names}"), self._registry_lock():
            store = self._store()
            use_write_ahead_log(store)
            store.apply([*objects])

    def service_contract(self, feature_service: str) -> str:
        """Return the `feature_contract` of what is registered: names and types, in order."""
        store = self._store()
        with translated(f"look up feature service {feature_service}"):
            service = store.get_feature_service(feature_service)
            features = [
                (feature.name, feature.dtype.to_value_type().name)
                for projection in service.feature_view_projections
                for feature in projection.features
            ]
        dtypes = {kind: dtype for dtype, kind in VALUE_TYPES.items()}
        unknown = [f"{name} ({kind})" for name, kind in features if kind not in dtypes]
        if unknown:
            raise FeatureStoreError(
                f"feature service {feature_service} has features that no model can read: "
                f"{', '.join(unknown)}"
            )
        return feature_contract([Feature(name, dtypes[kind]) for name, kind in features])

    def online(self, feature_view: str) -> OnlineView:
        """Return the rows of a registered view in the online store."""
        if self.online_store == "redis":
            require_redis(self.redis)
        store = self._store()
        use_write_ahead_log(store)
        return OnlineView(store, feature_view)

    def views(self, model_name: str) -> list[str]:
        """Return the views that versions of a model were made for, in the order of their names."""
        with translated(f"list the feature views of {model_name}"):
            services = self._store().list_feature_services(tags={MODEL_TAG: model_name})
            return sorted(one.feature_view_projections[0].name for one in services)

    def delete_view(self, feature_view: str) -> None:
        """Delete a view, its source, its service and its rows in the online store."""
        self.online(feature_view).mark("")
        store = self._store()
        with translated(f"delete feature view {feature_view}"), self._registry_lock():
            view = store.get_feature_view(feature_view)
            service = store.get_feature_service(feature_view)
            store.apply([], objects_to_delete=[service, view, view.batch_source], partial=False)

    def historical(self, entities: pd.DataFrame, feature_service: str) -> pd.DataFrame:
        """Join features to `entities` as they were known at each row's event timestamp.

        `entities` have the join key, `event_timestamp` (UTC) and any columns to keep. Features
        are added, texts as categories. The order of rows and columns is Feast's own; a row that
        no observation precedes may be missing.
        """
        store = self._store()
        with translated(f"join the features of {feature_service}"), _own_duckdb():
            service = store.get_feature_service(feature_service)
            table = store.get_historical_features(entity_df=entities, features=service).to_arrow()
            # Many rows share a text. Each column is let go once it is converted.
            joined: pd.DataFrame = table.to_pandas(
                strings_to_categorical=True, split_blocks=True, self_destruct=True
            )
        return joined

    def _store(self) -> Any:
        config = self.render()
        with translated(f"open the feature store in {self.home}"):
            import_feast()
            from feast import FeatureStore

            return FeatureStore(repo_path=str(self.home), fs_yaml_file=config)

    def _registry_lock(self) -> AbstractContextManager[None]:
        # Feast changes the registry in many transactions.
        return exclusive(self.home / ".registry.lock")


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
