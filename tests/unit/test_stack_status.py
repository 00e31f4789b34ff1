"""What `make status` says."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from platform_assets.local_stack import report
from platform_assets.local_stack.settings import stack_settings
from serving_gateway.contract import DEFAULT_MODEL, ModelStatus
from tests.support.model_status import effective_version, model_status

STATUSES = {
    "": model_status(models=("cars", DEFAULT_MODEL)),
    f"/{DEFAULT_MODEL}": model_status({"A": effective_version(3, mode="pinned")}),
    "/cars": model_status(model_name="cars", reasons=("variant A was never reloaded",)),
}


def said(
    monkeypatch: pytest.MonkeyPatch, home: Path, statuses: Mapping[str, ModelStatus]
) -> tuple[int, str]:
    settings = stack_settings({"STATE_DIR": str(home)})

    def answer(url: str, kind: type[ModelStatus]) -> ModelStatus:
        path = url.removeprefix(f"{settings.gateway_url}/models")
        if path not in statuses:
            raise ConnectionRefusedError("connection refused")
        return statuses[path]

    monkeypatch.setattr(report, "get", answer)
    monkeypatch.setattr(report, "services", lambda _: [])
    console = Console(file=io.StringIO(), soft_wrap=True)
    status = report.print_status(settings, None, console)
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
