"""`DELETE /variant/{alias}` and `DELETE /models/{model}`: what reaches the use cases, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_gateway.contract import ClearResponse, RemovalResponse, Traffic
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import Conflict
from serving_gateway.main import create_app
from serving_gateway.settings import Settings

TOKEN = "removal-token-0123456789"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the use cases are called with; they refuse what is not forced."""
    calls: list[dict[str, Any]] = []

    def noted(force: bool, **call: Any) -> None:
        calls.append({"force": force, **call})
        if not force:
            raise Conflict("A answered clients within the last minute.", code="in_use")

    async def clear(_: Any, alias: str, *, force: bool, by: str, reason: str | None) -> Any:
        noted(force, alias=alias, by=by, reason=reason)
        return ClearResponse("success", alias, 2, 7, True, False, Traffic())

    async def remove(_: Any, model: str, *, force: bool, by: str, reason: str | None) -> Any:
        noted(force, model=model, by=by, reason=reason)
        return RemovalResponse("success", model, 8, {"A": 1}, True)

    monkeypatch.setattr(ControlPlane, "clear_variant", clear)
    monkeypatch.setattr(Hosting, "remove", remove)
    return calls


@pytest.fixture
async def client(tmp_path: Path, calls: list[dict[str, Any]]) -> AsyncIterator[httpx.AsyncClient]:
    gateway = create_app(
        Settings(state_dir=tmp_path, control_tokens=(("ann", TOKEN),))  # type: ignore[arg-type]
    )
    transport = httpx.ASGITransport(gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as found:
        found.headers["authorization"] = f"Bearer {TOKEN}"
        yield found


@pytest.mark.parametrize(
    ("path", "what", "body"),
    [
        ("/variant/B", {"alias": "B"}, {"variant": "B", "version": 2, "generation": 7}),
        ("/models/best_model/variant/B", {"alias": "B"}, {"variant": "B"}),
        ("/models/other", {"model": "other"}, {"model_name": "other", "versions": {"A": 1}}),
    ],
)
async def test_removal_says_who_asked_why_and_by_force(
    client: httpx.AsyncClient,
    calls: list[dict[str, Any]],
    path: str,
    what: dict[str, Any],
    body: dict[str, Any],
) -> None:
    refused = await client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert refused.json()["still_served"] == {}
    removed = await client.delete(path, params={"force": "true", "reason": "no longer needed"})
    assert removed.status_code == 200, removed.text
    assert removed.json().items() >= body.items()
    by = {"by": "token:ann"}
    assert calls == [
        {"force": False, "reason": None, **by, **what},
        {"force": True, "reason": "no longer needed", **by, **what},
    ]


@pytest.mark.parametrize("query", ["force=maybe", f"reason={'x' * 501}"])
async def test_wrong_query_is_named_and_changes_nothing(
    client: httpx.AsyncClient, calls: list[dict[str, Any]], query: str
) -> None:
    answer = await client.delete(f"/variant/B?{query}")
    assert answer.status_code == 422
    assert answer.json()["field"] == query.partition("=")[0]
    assert calls == []
