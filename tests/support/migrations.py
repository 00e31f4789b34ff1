"""Dagster's databases, without the files of all migrations and an engine for each statement."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MOST_ENGINES: Final = 8
"""More than one run needs: its own database and the index of all."""


@contextlib.contextmanager
def read_migrations_once() -> Iterator[None]:
    """Read the migrations of each kind of database once in this process, and keep its engines.

    A new database is made by the newest schema and marked with the last migration; the migrations
    themselves, some sixty modules, are never run. The local stack reads them once as well. Dagster
    makes an engine, with an empty cache of compiled statements, for each event that it stores: a
    sixth of a short run's CPU time.
    """
    import sqlalchemy
    from alembic.script import ScriptDirectory
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from sqlalchemy.pool import NullPool

    from platform_assets.local_stack.migrations import cached_migrations

    @functools.lru_cache(maxsize=_MOST_ENGINES)
    def engine(url: str, timeout: float) -> Engine:
        # Without a pool: no connection is kept, so that a forked process shares none.
        return sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": timeout})

    def create_engine(url: str, connect_args: Mapping[str, float], **_: Any) -> Engine:
        return engine(url, connect_args["timeout"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", cached_migrations)
        patch.setattr(sqlite_event_log, "create_engine", create_engine)
        yield
