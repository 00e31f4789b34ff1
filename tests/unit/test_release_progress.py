"""What `make chain` waits for and prints, where a model is released in steps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from platform_assets.local_stack import release_progress, report
from platform_assets.local_stack.report import Production
from platform_assets.local_stack.settings import StackError, StackSettings, stack_settings
from serving_gateway.contract import Release, ReleasePlan, ReleaseState, Strategy, Traffic

AT = "2026-01-01T00:00:00Z"
PLAN = ReleasePlan(steps=(Traffic(Strategy.MIRROR, 100), Traffic(Strategy.SPLIT, 10)))
OLD = Release("old", 2, "run-2", 1, PLAN, ReleaseState.COMPLETED, 1, AT, AT, "token:pipeline")
NEW = replace(OLD, id="new", version=3, state=ReleaseState.RUNNING, step=0)


@pytest.fixture
def settings(tmp_path: Path) -> StackSettings:
    return stack_settings({"STATE_DIR": str(tmp_path)})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_progress, "_POLL_S", 0.001)


def shows(monkeypatch: pytest.MonkeyPatch, *releases: Release | None) -> None:
    """The gateway shows one after the other, and the last one from then on."""
    answers: Iterator[Release | None] = iter(releases)

    def present(*_: object) -> Release | None:
        return next(answers, releases[-1])

    monkeypatch.setattr(release_progress, "present_release", present)


def printed(settings: StackSettings, release: Release | None) -> str:
    output = io.StringIO()
    console = Console(file=output, width=200)
    release_progress.print_release(settings, console, "cars", release)
    return output.getvalue()


def test_the_release_that_follows_a_chain_is_waited_for_and_shown(
    settings: StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows(monkeypatch, OLD, OLD, NEW)
    found = release_progress.await_release(settings, "cars", OLD)
    assert found == NEW
    said = printed(settings, found)
    assert "Release of version 3: step 1 of 2, all requests mirrored" in said
    assert "/?model=cars" in said
    assert "/assets/cars/release" in said
    assert str(settings.operator_token) in said


def test_a_release_that_is_under_way_is_shown(
    settings: StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows(monkeypatch, NEW)
    assert release_progress.await_release(settings, "cars", NEW) == NEW


def test_where_none_begins_it_says_who_knows_why(
    settings: StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_progress, "_BEGIN_S", 0.01)
    shows(monkeypatch, OLD)
    found = release_progress.await_release(settings, "cars", OLD)
    said = printed(settings, found)
    assert "No release has begun; the sensor release_pilot says why" in said
    assert "/automation" in said


def test_a_first_version_is_waited_for_until_it_is_in_production(
    settings: StackSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([Production(None), Production(1)])
    monkeypatch.setattr(report, "production", lambda *_: next(answers))
    release_progress.await_first_version(settings, "cars")
    monkeypatch.setattr(release_progress, "_FIRST_S", 0.0)
    monkeypatch.setattr(report, "production", lambda *_: Production(None))
    with pytest.raises(StackError, match="cars_promotion"):
        release_progress.await_first_version(settings, "cars")


def test_a_gateway_that_is_away_is_named(settings: StackSettings) -> None:
    with pytest.raises(StackError, match="does not answer"):
        release_progress.present_release(replace_port(settings), "cars")


def replace_port(settings: StackSettings) -> StackSettings:
    """The same stack with a gateway where none listens."""
    return stack_settings({"STATE_DIR": str(settings.state_dir), "GATEWAY_PORT": "9"})
