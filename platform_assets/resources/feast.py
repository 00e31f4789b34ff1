"""Feast as the pipeline uses it: one model at a time, with its state in our own directory.

Importing Feast takes seconds, so it is imported when it is first needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource
from pydantic import Field

from platform_assets.resources.atomic_files import lock_file, replace_file
from platform_assets.resources.feast_errors import FeatureStoreError, translate_feast_errors
from platform_assets.resources.feast_online import OnlineView, use_write_ahead_log
from platform_assets.resources.redis_address import connection_string, require_redis
from serving_gateway.contract import DType, Feature, feature_contract, import_feast

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FeastResource", "FeatureStoreError"]

CONFIG_NAME: Final = "feature_store.yaml"
MODEL_TAG: Final = "model_name"
"""Tag of a feature service: the model whose versions read it."""
_LOCK_SECONDS: Final = 60
"""Longest wait, in seconds, for another chain's change of the registry."""
VALUE_TYPES: Final = {
    DType.FP32: "FLOAT",
    DType.FP64: "DOUBLE",
    DType.INT64: "INT64",
    DType.BOOL: "BOOL",
    DType.BYTES: "STRING",
}
"""Names of Feast's value types."""
_DTYPES: Final = {kind: dtype for dtype, kind in VALUE_TYPES.items()}


class FeastResource(ConfigurableResource["FeastResource"]):
    """One feature store, which writes only to `state_dir`.

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
        """Folder of the Parquet files of the definitions' sources."""
        return self.home / "data"

    def render(self) -> Path:
        """Write the effective feature_store.yaml into the state directory; return its path.

        The Feast command line, the gateway and this resource then use the same store.
        """
        config = {
            "project": self.project,
            "provider": "local",
            # The SQL registry changes in transactions, so a gateway that reads it meanwhile
            # never sees half a file.
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
            # Readable by its owner alone: it may hold a Redis password.
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
        # We determine the newest row of an entity before writing. Feast's own way, dropping rows
        # not newer than the stored one, would keep a wrong value that the source has corrected
        # since, and forever if rows have no time.
        address = connection_string(self.redis)
        return {"type": "redis", "connection_string": address, "skip_dedup": True}

    def apply(self, objects: Sequence[Any]) -> None:
        """Register these objects; others stay unchanged."""
        self.render()
        names = ", ".join(sorted({object_.name for object_ in objects}))
        with translate_feast_errors(f"apply {names}"), self._registry_lock():
            store = self._store()
            use_write_ahead_log(store)
            store.apply([*objects])

    def service_contract(
        self, feature_service: str, names: Sequence[str] = (), request: Sequence[Feature] = ()
    ) -> str:
        """Return the `feature_contract` of a registered service: names and types, in order.

        A service of several views has the columns of each in the order of its table: `names` is
        the model's order, and `request` are its request features.
        """
        store = self._store()
        with translate_feast_errors(f"look up feature service {feature_service}"):
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
        columns = [*(Feature(name, _DTYPES[kind]) for name, kind in features), *request]
        if names:
            places = {name: place for place, name in enumerate(names)}
            columns.sort(key=lambda column: places.get(column.name, len(places)))
        return feature_contract(columns)

    def view(self, feature_view: str) -> Any:
        """Return a registered view, a Feast object."""
        store = self._store()
        with translate_feast_errors(f"look up feature view {feature_view}"):
            return store.get_feature_view(feature_view)

    def online(self, feature_view: str) -> OnlineView:
        """Return the rows of a registered view in the online store."""
        if self.online_store == "redis":
            require_redis(self.redis)
        store = self._store()
        use_write_ahead_log(store)
        return OnlineView(store, feature_view)

    def services(self, model_name: str) -> list[str]:
        """Return the services that versions of a model were made for, sorted by name."""
        return [service.name for service in self._services(model_name)]

    def views(self, model_name: str) -> list[str]:
        """Return the views of a model's own table, for all contracts, sorted by name."""
        return [service.name for service in self._services(model_name) if _has_own_view(service)]

    def readers(self, feature_view: str) -> dict[str, dict[str, DType | None]]:
        """Return, by service, the columns of a view that registered services read.

        The type is None for a column that no model can read.
        """
        with translate_feast_errors(f"list what reads {feature_view}"):
            return {
                service.name: column_types(projection.features)
                for service in self._store().list_feature_services()
                for projection in service.feature_view_projections
                if projection.name == feature_view
            }

    def delete_service(self, feature_service: str) -> None:
        """Delete a service and, for a model's own table, its view, source and online rows."""
        store = self._store()
        with translate_feast_errors(f"look up feature service {feature_service}"):
            service = store.get_feature_service(feature_service)
        doomed = [service]
        if _has_own_view(service):
            self.online(feature_service).mark("")
            with translate_feast_errors(f"look up feature view {feature_service}"):
                view = store.get_feature_view(feature_service)
            doomed += [view, view.batch_source]
        with (
            translate_feast_errors(f"delete feature service {feature_service}"),
            self._registry_lock(),
        ):
            store.apply([], objects_to_delete=doomed, partial=False)

    def _services(self, model_name: str) -> list[Any]:
        with translate_feast_errors(f"list the feature services of {model_name}"):
            services = self._store().list_feature_services(tags={MODEL_TAG: model_name})
            return sorted(services, key=lambda service: str(service.name))

    def historical(self, entities: pd.DataFrame, feature_view: str) -> pd.DataFrame:
        """Join features to `entities` as known at each row's event timestamp.

        `entities` have the join key, `event_timestamp` (UTC) and any columns to keep. Features
        are added, texts as categories. The order of rows and columns is Feast's own; a row
        without an earlier observation may be missing.
        """
        store = self._store()
        with translate_feast_errors(f"join the features of {feature_view}"), _own_duckdb():
            features = store.get_feature_view(feature_view).features
            table = store.get_historical_features(
                entity_df=entities, features=[f"{feature_view}:{field.name}" for field in features]
            ).to_arrow()
            # Many rows share a text. Each column is released once it is converted.
            joined: pd.DataFrame = table.to_pandas(
                strings_to_categorical=True, split_blocks=True, self_destruct=True
            )
        return joined

    def _store(self) -> Any:
        config = self.render()
        with translate_feast_errors(f"open the feature store in {self.home}"):
            import_feast()
            from feast import FeatureStore

            return FeatureStore(repo_path=str(self.home), fs_yaml_file=config)

    def _registry_lock(self) -> AbstractContextManager[None]:
        # Feast changes the registry in many transactions.
        return lock_file(self.home / ".registry.lock")


def column_types(fields: Iterable[Any]) -> dict[str, DType | None]:
    """Return the types of Feast fields by name; None for types that no model can read."""
    return {field.name: _DTYPES.get(field.dtype.to_value_type().name) for field in fields}


def _has_own_view(service: Any) -> bool:
    """Whether a service (a Feast object) is that of a model's own table."""
    return any(projection.name == service.name for projection in service.feature_view_projections)


@contextmanager
def _own_duckdb() -> Iterator[None]:
    """Make Feast's offline store use a database that is closed afterwards.

    ibis never closes the one that it opens by itself, which keeps open the files that it read.
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
