"""Write, read and delete the rows of one feature view in the online store.

Feast's interface writes and reads rows, but only deletes whole views. Deleting a row requires
knowing how Feast's stores keep it, which only this module does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from platform_assets.resources.feast_errors import translate_feast_errors

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")

_LOCK_MILLISECONDS: Final = 300_000
"""Longest wait for another writer, which holds the lock for one batch of rows."""
_BATCH: Final = 5_000
_MARKER: Final = "online_content"

Row = tuple[Any, dict[str, Any], datetime, datetime | None]
"""What a store writes: entity key, values by feature, event time, time of creation."""


class OnlineRow(NamedTuple):
    """What the store holds for an entity; empty for an unknown one."""

    observed_at: datetime | None
    values: dict[str, Any]
    """Plain values by feature, None where null."""


class OnlineView:
    """A feature view in the online store; every method raises `FeatureStoreError`."""

    def __init__(self, store: Any, name: str) -> None:
        self.name, self._store = name, store
        self._doing = f"{name} in the online store"
        self._online, self._config = store.provider.online_store, store.config
        with translate_feast_errors(f"look up {self._doing}"):
            self._view = store.get_feature_view(name)
            self._marker = _marker()
            self._online.update(self._config, [], [self._marker], [], [], partial=True)
        [key] = self._view.entity_columns
        self.key, self.key_type = key.name, key.dtype.to_value_type().name

    @property
    def content(self) -> str:
        """The content written last, as recorded by `mark`; empty when unknown."""
        with translate_feast_errors(f"read {self._doing}"):
            [(_, values)] = self._online.online_read(
                self._config, self._marker, self._marker_keys(), ["content"]
            )
        return plain_value((values or {}).get("content")) or ""

    def mark(self, content: str) -> None:
        """Record beside the rows which content they are: a store that loses rows loses it, too."""
        from feast.protos.feast.types.Value_pb2 import Value

        [key] = self._marker_keys()
        row = (key, {"content": Value(string_val=content)}, datetime.now(UTC), None)
        with translate_feast_errors(f"mark {self._doing}"):
            self._online.online_write_batch(self._config, self._marker, [row], None)

    def write(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Write rows (join key, event timestamp, features), one per entity; return their number."""
        written = 0
        with translate_feast_errors(f"write {self._doing}"):
            for batch in batches:
                rows = online_rows(batch, self._view)
                self._online.online_write_batch(self._config, self._view, rows, None)
                written += len(rows)
        return written

    def record_span(self, first: datetime, last: datetime) -> None:
        """Record the first and last event time (UTC) in Feast's materialization intervals."""
        with translate_feast_errors(f"record what was written to {self._doing}"):
            registry = self._store.registry
            registry.apply_materialization(self._view, self._store.project, first, last)

    def read(self, ids: Iterable[int | str]) -> list[OnlineRow]:
        """Read rows of any age, as the gateway does; one per id, in that order."""
        keys = entity_keys(ids, self._view)
        with translate_feast_errors(f"read {self._doing}"):
            stored = self._online.online_read(self._config, self._view, keys)
        return [_row(time, values or {}) for time, values in stored]

    def delete(self, ids: Iterable[int | str]) -> int:
        """Delete the rows of these entities; return the number of ids given."""
        with translate_feast_errors(f"delete rows of {self._doing}"):
            rows = self._stored_rows()
            keys = [rows.key(key) for key in entity_keys(ids, self._view)]
            rows.delete(keys)
        return len(keys)

    def delete_others(self, ids: Iterable[int | str]) -> int:
        """Delete the rows of all other entities; return their number."""
        with translate_feast_errors(f"delete rows of {self._doing}"):
            rows = self._stored_rows()
            others = {*rows.all()}
            for batch in _batches(ids) if others else ():
                others.difference_update(map(rows.key, entity_keys(batch, self._view)))
            rows.delete(others)
        return len(others)

    def _stored_rows(self) -> _SqliteRows | _RedisRows:
        kind = _RedisRows if self._config.online_store.type == "redis" else _SqliteRows
        return kind(self._online, self._config, self._view)

    def _marker_keys(self) -> list[Any]:
        return entity_keys([self._view.name], self._marker)


def _row(time: datetime | None, values: dict[str, Any]) -> OnlineRow:
    plain = {name: plain_value(value) for name, value in values.items()}
    # Redis returns nulls with the time 0 for an unknown entity.
    if time is None or (not time.timestamp() and set(plain.values()) <= {None}):
        return OnlineRow(None, {})
    return OnlineRow(time, plain)


def use_write_ahead_log(store: Any) -> None:
    """Make SQLite's readers independent of writers, and writers wait for each other."""
    if store.config.online_store.type == "sqlite":
        connection = store.provider.online_store._get_conn(store.config)
        connection.execute(f"PRAGMA busy_timeout = {_LOCK_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode = WAL")


def _marker() -> Any:
    """Return a view that is not in Feast's registry and only used here."""
    from feast import Entity, FeatureView, Field, ValueType
    from feast.types import String

    entity = Entity(name="feature_view", join_keys=["feature_view"], value_type=ValueType.STRING)
    schema = [Field(name="feature_view", dtype=String), Field(name="content", dtype=String)]
    return FeatureView(name=_MARKER, entities=[entity], schema=schema)


class _SqliteRows:
    """The rows of a view by the store's own keys."""

    def __init__(self, online: Any, config: Any, view: Any) -> None:
        self._connection = online._get_conn(config)
        self._table = f'"{config.project}_{view.name}"'

    def key(self, entity: Any) -> bytes:
        from feast.infra.key_encoding_utils import serialize_entity_key

        return serialize_entity_key(entity)

    def all(self) -> Iterable[bytes]:
        statement = f"SELECT DISTINCT entity_key FROM {self._table}"  # noqa: S608 -- a view's name
        stored = self._connection.execute(statement)
        return [key for (key,) in stored]

    def delete(self, keys: Collection[bytes]) -> None:
        statement = f"DELETE FROM {self._table} WHERE entity_key = ?"  # noqa: S608
        for batch in _batches(keys):
            with self._connection:
                self._connection.executemany(statement, [(key,) for key in batch])


class _RedisRows:
    """The same for Redis: an entity is a hash, shared by views with the same join key name."""

    def __init__(self, online: Any, config: Any, view: Any) -> None:
        from feast.infra.key_encoding_utils import serialize_entity_key_prefix
        from feast.infra.online_stores.helpers import _mmh3

        self._client = online._get_client(config.online_store)
        self._project = config.project
        self._time = f"_ts:{view.name}".encode()
        self._fields = [
            self._time,
            *(_mmh3(f"{view.name}:{field.name}") for field in view.features),
        ]
        self._prefix = serialize_entity_key_prefix([view.entity_columns[0].name])

    def key(self, entity: Any) -> bytes:
        from feast.infra.online_stores.helpers import _redis_key

        return _redis_key(self._project, entity)

    def all(self) -> Iterator[bytes]:
        parts = (self._prefix, self._project.encode())
        pattern = b"*".join(re.sub(rb"([*?\[\]\\])", rb"\\\1", part) for part in parts)
        for batch in _batches(self._client.scan_iter(pattern, count=_BATCH)):
            with self._client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.hexists(key, self._time)
                held = pipe.execute()
            yield from (key for key, is_held in zip(batch, held, strict=True) if is_held)

    def delete(self, keys: Collection[bytes]) -> None:
        for batch in _batches(keys):
            with self._client.pipeline(transaction=False) as pipe:
                for key in batch:
                    pipe.hdel(key, *self._fields)
                pipe.execute()


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(items)
    while batch := [*islice(rest, _BATCH)]:
        yield batch


def entity_keys(ids: Iterable[Any], view: Any) -> list[Any]:
    """Return Feast's keys for entities of a view (a Feast object)."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

    [key] = view.entity_columns
    return [
        EntityKey(join_keys=[key.name], entity_values=[value]) for value in _values([*ids], key)
    ]


def online_rows(batch: pa.RecordBatch, view: Any) -> list[Row]:
    """Turn a batch with the columns of a view (a Feast object) into its rows.

    A null becomes an unset value.
    """
    keys = entity_keys(batch.column(view.entity_columns[0].name).to_pylist(), view)
    times = batch.column(view.batch_source.timestamp_field).to_pylist()
    names = [feature.name for feature in view.features]
    columns = [_values(batch.column(field.name).to_pylist(), field) for field in view.features]
    return [
        (entity, dict(zip(names, values, strict=True)), time, None)
        for entity, time, *values in zip(keys, times, *columns, strict=True)
    ]


def plain_value(value: Any) -> Any:
    """Return the content of a Feast value as the gateway reads it.

    None if it is unset, NaN or an empty text.
    """
    kind = None if value is None else value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    plain = getattr(value, kind)
    return None if plain == "" or plain != plain else plain  # noqa: PLR0124 -- NaN


def _values(plain: list[Any], field: Any) -> list[Any]:
    from feast.protos.feast.types.Value_pb2 import Value

    name = f"{field.dtype.to_value_type().name.lower()}_val"
    missing = Value()
    return [missing if value is None else Value(**{name: value}) for value in plain]
