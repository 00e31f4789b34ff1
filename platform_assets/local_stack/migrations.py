"""Cache Dagster's migration scripts, which are otherwise read whenever a database is opened.

Dagster asks Alembic for the newest migration with each instance, thus for each sensor tick, and
for the database of each run. The answer is in some sixty modules: half of the cost of a tick.
They belong to the installed package, and do not change while a process runs.
"""

from __future__ import annotations

from typing import Final

from alembic.config import Config
from alembic.script import ScriptDirectory

_read = ScriptDirectory.from_config
_CACHE: Final[dict[tuple[str | None, str | None], ScriptDirectory]] = {}


def read_migrations_once() -> None:
    """Make `ScriptDirectory.from_config` return cached results from now on."""
    ScriptDirectory.from_config = staticmethod(cached_migrations)  # type: ignore[method-assign] # Alembic has no hook


def cached_migrations(config: Config) -> ScriptDirectory:
    """Return the migrations that a configuration names, read by the first call only."""
    key = config.config_file_name, config.get_main_option("script_location")
    if key not in _CACHE:
        _CACHE[key] = _read(config)
    return _CACHE[key]


def read_ahead() -> None:
    """Read the migrations of all of Dagster's SQLite storages, for processes forked later."""
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import get_alembic_config

    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        config = get_alembic_config(str(storage.__file__))
        ScriptDirectory.from_config(config).as_revision_number("head")
