"""Has the files of Dagster's migrations read once in a process, not whenever a database is opened.

Dagster asks Alembic for the newest migration with each instance, thus for each look of a sensor,
and for the database of each run. The answer is in some sixty modules: half of what a look costs.
They belong to the installed package, and do not change while a process runs.
"""

from __future__ import annotations

from typing import Final

from alembic.config import Config
from alembic.script import ScriptDirectory

_read = ScriptDirectory.from_config
_KNOWN: Final[dict[tuple[str | None, str | None], ScriptDirectory]] = {}


def read_migrations_once() -> None:
    """Let `ScriptDirectory.from_config` return what it has read before, from now on."""
    ScriptDirectory.from_config = staticmethod(known_or_read)  # type: ignore[method-assign] # Alembic has no hook


def known_or_read(config: Config) -> ScriptDirectory:
    """Return the migrations that a configuration names, read by its first call."""
    key = config.config_file_name, config.get_main_option("script_location")
    if key not in _KNOWN:
        _KNOWN[key] = _read(config)
    return _KNOWN[key]


def read_ahead() -> None:
    """Read those of all of Dagster's storages on SQLite, for what is forked from this process."""
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import get_alembic_config

    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        config = get_alembic_config(str(storage.__file__))
        ScriptDirectory.from_config(config).as_revision_number("head")
