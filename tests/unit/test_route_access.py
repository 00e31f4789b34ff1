"""Every route of the application, a new one too, asks for what its caller must bring."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.routing import Route

from serving_gateway.main import create_app
from serving_gateway.settings import Settings

TOKEN, ALICE = "default-token-0123456789", "alice-token-0123456789"
KEY, MLFLOW = "key-0123456789abcdef", "token-of-mlflow-0123456789"
OPEN: Final = {
    *("/health", "/ready", "/models/{model}/health", "/models/{model}/ready"),
    *("/v2/health/live", "/v2/health/ready"),
    *("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"),
    *("/", "/docs", "/docs/{name}", "/openapi.json"),
}
"""What a prober or a browser gets without any credential: no data of clients, and no change."""
DATA: Final = ("/predict", "/infer", "/outcomes")
"""Ends of the paths that take something without changing what is served: a key is enough."""
NOT_ENOUGH: Final = {
    "nothing": {},
    "an unknown token": {"authorization": f"Bearer {TOKEN[:-1]}0"},
    "a shortened token": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "a token in other letters": {"authorization": f"Bearer {TOKEN.upper()}"},
    "a token of another scheme": {"authorization": f"Basic {TOKEN}"},
    "a token as a key": {"x-api-key": TOKEN},
    "a data key": {"x-api-key": KEY},
    "a data key as a token": {"authorization": f"Bearer {KEY}"},
    "a token for another server": {"authorization": f"Bearer {MLFLOW}"},
    "the name of a token": {"authorization": "Bearer alice"},
    "an empty token": {"authorization": "Bearer "},
    "all tokens at once": {"authorization": f"Bearer alice:{ALICE},{TOKEN}"},
    "a token in a cookie": {"cookie": f"authorization=Bearer {TOKEN}"},
}
"""Credentials that no control call accepts."""


def application(home: Path = Path("nowhere")) -> Any:
    return create_app(
        Settings(
            state_dir=home,
            control_token=SecretStr(TOKEN),
            control_tokens=f"alice:{ALICE}",  # type: ignore[arg-type]
            api_keys=(KEY,),  # type: ignore[arg-type]
            mlflow_url="http://127.0.0.1:9",
            mlflow_token=SecretStr(MLFLOW),
        )
    ).app


def inner(app: Any) -> FastAPI:
    """The framework's application, below what stands around it."""
    while not isinstance(app, FastAPI):
        app = app.app
    return app


def routes_of(router: Any) -> Iterator[Route]:
    """Every route, the undocumented ones and those of included routers too."""
    for one in router.routes:
        if isinstance(one, Route):
            yield one
        else:
            yield from routes_of(one.original_router)


def operations() -> list[tuple[str, str]]:
    """Method and path of every route."""
    app = inner(application())
    return sorted(
        (method, route.path)
        for route in routes_of(app)
        for method in route.methods or ()
        if method != "HEAD"
    )


OPERATIONS: Final = operations()
CONTROL: Final = [
    (method, path)
    for method, path in OPERATIONS
    if method not in {"GET", "OPTIONS"} and not path.endswith(DATA)
]
KEYED: Final = [one for one in OPERATIONS if one not in CONTROL and one[1] not in OPEN]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """Nothing is started behind the routes: what gets there would fail, and changes nothing."""
    app = application(tmp_path_factory.mktemp("gateway"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as one:
        yield one


def filled(path: str) -> str:
    """A path with names in the place of its parameters."""
    for name, value in {"model": "best_model", "alias": "A", "version": "1"}.items():
        path = path.replace("{" + name + "}", value)
    assert "{" not in path, "this test lacks a value for a parameter"
    return path


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("method", "path"), CONTROL, ids=map(" ".join, CONTROL))
async def test_control_route_refuses_all_but_a_token(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    for what, headers in NOT_ENOUGH.items():
        # Neither a query nor a body that cannot be read comes before the credential.
        url = f"{filled(path)}?token={TOKEN}&access_token={TOKEN}"
        answer = await client.request(method, url, headers=headers, content=b"{")
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), what
        assert "Nothing was changed" in answer.json()["error"]
    for token in (TOKEN, ALICE):
        headers = {"authorization": f"Bearer {token}", "content-type": "text/plain"}
        answer = await client.request(method, filled(path), headers=headers, content=b"{")
        assert answer.status_code != 401


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("method", "path"), KEYED, ids=map(" ".join, KEYED))
async def test_other_route_refuses_callers_without_a_key(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Bearer {MLFLOW}"}):
        answer = await client.request(method, filled(path), headers=headers, content=b"{")
        assert answer.status_code == 401, headers
    answer = await client.request(method, filled(path), headers={"x-api-key": KEY}, content=b"{")
    assert answer.status_code != 401


def test_every_route_is_of_one_kind() -> None:
    assert len(CONTROL) >= 8
    assert {path for _, path in OPERATIONS} >= OPEN
    described = inner(application()).openapi()["paths"]
    tagged = {
        (method.upper(), path)
        for path, methods in described.items()
        for method, operation in methods.items()
        if operation.get("tags") == ["control"]
    }
    assert tagged == set(CONTROL), "a control route is described as one"
