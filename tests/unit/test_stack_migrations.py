"""The migrations of Dagster's databases, read once in a process."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from alembic.script import ScriptDirectory

from platform_assets.local_stack import migrations

READ = ScriptDirectory._load_revisions


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each reading of a folder of migrations; what was read before is forgotten."""
    made: list[str] = []

    def read(self: ScriptDirectory) -> object:
        made.append(str(self.dir))
        return READ(self)

    monkeypatch.setattr(ScriptDirectory, "_load_revisions", read)
    monkeypatch.setattr(migrations, "_CACHE", {})
    # All tests read them once; here it is Alembic's own again.
    monkeypatch.setattr(ScriptDirectory, "from_config", migrations._read)
    return made


def open_instance(home: Path) -> None:
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        instance.add_run(dg.DagsterRun(job_name="none"))
        run = instance.get_runs()[0]
        instance.report_run_canceled(run)


def test_instances_and_runs_read_no_migrations_again(tmp_path: Path, readings: list[str]) -> None:
    migrations.read_migrations_once()
    migrations.read_ahead()
    assert readings
    ahead = len(readings)

    for home in (tmp_path / "first", tmp_path / "second"):
        home.mkdir()
        open_instance(home)

    assert len(readings) == ahead


def test_storages_of_different_migrations_keep_their_own() -> None:
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
    from dagster._core.storage.sql import get_alembic_config

    configs = [
        get_alembic_config(str(one.__file__))
        for one in (sqlite_run_storage, sqlite_schedule_storage)
    ]
    first, second = map(migrations.cached_migrations, configs)
    assert first is not second
    assert [migrations.cached_migrations(one) for one in configs] == [first, second]
