"""What `make status` says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from platform_assets.local_stack import report
from platform_assets.local_stack.settings import stack_settings
from serving_gateway.contract import DEFAULT_MODEL

PAGES: dict[str, Any] = {
    "": {"models": ["cars", DEFAULT_MODEL]},
    f"/{DEFAULT_MODEL}": {
        "effective": {"A": {"version": 3, "ready": True, "mode": "pinned"}},
        "replica": {"reasons": []},
    },
    "/cars": {"effective": {}, "replica": {"reasons": ["variant A was never reloaded"]}},
}


def said(monkeypatch: pytest.MonkeyPatch, home: Path, pages: dict[str, Any]) -> tuple[int, str]:
    settings = stack_settings({"STATE_DIR": str(home)})

    def answer(url: str) -> Any:
        path = url.removeprefix(f"{settings.gateway_url}/models")
        if path not in pages:
            raise ConnectionRefusedError("connection refused")
        return pages[path]

    monkeypatch.setattr(report, "get_json", answer)
    monkeypatch.setattr(report, "services", lambda _: [])
    console = Console(file=io.StringIO(), soft_wrap=True)
    status = report.print_status(settings, None, console)
    assert isinstance(console.file, io.StringIO)
    return status, console.file.getvalue()


def test_every_model_is_named_and_which_one_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, text = said(monkeypatch, tmp_path, PAGES)
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
