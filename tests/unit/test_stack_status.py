"""What `make status` says."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from platform_assets.local_stack import report
from platform_assets.local_stack.settings import StackError, stack_settings
from serving_gateway.contract import DEFAULT_MODEL, ModelStatus
from tests.support.model_status import effective_version, model_status

STATUSES = {
    "": model_status(models=("cars", DEFAULT_MODEL)),
    f"/{DEFAULT_MODEL}": model_status({"A": effective_version(3, mode="pinned")}),
    "/cars": model_status(model_name="cars", reasons=("variant A was never reloaded",)),
}


def said(
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    statuses: Mapping[str, ModelStatus],
    owner: int | None = 7,
    models: Sequence[str] | None = None,
) -> tuple[int, str]:
    settings = stack_settings({"STATE_DIR": str(home)})

    def answer(url: str, kind: type[ModelStatus]) -> ModelStatus:
        path = url.removeprefix(f"{settings.gateway_url}/models")
        if path not in statuses:
            raise ConnectionRefusedError("connection refused")
        return statuses[path]

    def with_chain(_url: str) -> list[str]:
        if models is None:
            raise StackError("Dagster does not answer")
        return list(models)

    monkeypatch.setattr(report, "get", answer)
    monkeypatch.setattr(report, "models_with_chain", with_chain)
    monkeypatch.setattr(report, "services", lambda _: [])
    console = Console(file=io.StringIO(), soft_wrap=True)
    status = report.print_status(settings, owner, console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def test_every_model_is_named_and_which_one_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, text = said(monkeypatch, tmp_path, STATUSES)
    assert status == 0
    assert text.splitlines()[-3:] == [
        "in production:",
        f"  {DEFAULT_MODEL} (the default model): version 3 (pinned)",
        "  cars: nothing; variant A was never reloaded",
    ]


def test_without_a_gateway_the_default_model_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, text = said(monkeypatch, tmp_path, {})
    assert status == 1
    assert f"{DEFAULT_MODEL} (the default model): nothing; the gateway does not answer" in text


def test_model_with_a_file_but_no_version_was_never_in_production(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models = ["best_model", "cars", "churn"]
    status, text = said(monkeypatch, tmp_path, STATUSES, models=models)
    assert status == 0
    assert text.splitlines()[-2:] == [
        "  cars: nothing; variant A was never reloaded",
        "  churn: never in production",
    ]


def test_without_a_gateway_no_model_is_said_to_be_never_in_production(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, text = said(monkeypatch, tmp_path, {}, models=["churn"])
    assert "churn" not in text


def test_status_of_a_stack_that_does_not_run_says_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, text = said(monkeypatch, tmp_path, {}, owner=None)
    assert status == 1
    assert text.splitlines() == [
        "Nothing runs with this state directory; start it with make up",
        f"state: {tmp_path}",
    ]
