"""The gateway is light, touches nothing at import, and describes itself truly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastapi import FastAPI

from serving_gateway.main import create_app
from serving_gateway.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    *("dagster", "mlflow", "sklearn", "pandas", "numpy", "pyarrow", "onnx", "tritonclient"),
    *("platform_assets", "feast", "opentelemetry.sdk", "opentelemetry.exporter"),
)
IMPORTS = """
import os, sys
environment = dict(os.environ)
os.environ.clear()
import serving_gateway.main, serving_gateway.http.server, serving_gateway.__main__
serving_gateway.main.create_app(serving_gateway.main.Settings())
print(*[name for name in {heavy!r} if name in sys.modules])
"""


def test_a_fresh_interpreter_loads_nothing_heavy() -> None:
    code = IMPORTS.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


def test_every_setting_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_a_wrong_setting_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving_gateway"],
        env={"GATEWAY_PORT": "http", "GATEWAY_TRITON_URL": "triton"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "GATEWAY_PORT:" in done.stderr
    assert "GATEWAY_TRITON_URL:" in done.stderr


def test_the_openapi_page_describes_all_that_there_is(tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path)).app.app
    assert isinstance(app, FastAPI)
    page = app.openapi()
    by_model = {
        *("/health", "/ready", "/shadow", "/predict", "/traffic"),
        *("/variant/{alias}/reload", "/variant/{alias}/rollback", "/variant/{alias}"),
        *("/release", "/release/advance", "/release/approve", "/release/stop", "/outcomes"),
    }
    named = {f"/models/{{model}}{path}" for path in ("", *by_model)}
    protocol = {
        f"/v2/models/{{model}}{version}{path}"
        for version in ("", "/versions/{version}")
        for path in ("", "/infer", "/ready", "/config", "/stats")
    }
    plain = {"/", "/models", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"}
    assert set(page["paths"]) == {*by_model, *plain, *named, *protocol}
    assert set(page["paths"]["/models/{model}"]) == {"get", "delete"}
    schemas = page["components"]["schemas"]
    for name in (
        *("PredictRequest", "PredictResponse", "ErrorResponse", "ReloadRequest", "ModelStatus"),
        *("InferenceRequest", "InferenceResponse", "ServerMetadata"),
    ):
        assert schemas[name]["properties"], name
        assert schemas[name]["description"], name
    for reference in {part.split("'")[0] for part in str(page).split("#/components/schemas/")[1:]}:
        assert reference in schemas


def test_every_operation_names_its_bodies_and_credentials(tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path)).app.app
    assert isinstance(app, FastAPI)
    page = app.openapi()
    described = {tag["name"] for tag in page["tags"] if tag["description"]}
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["description"], where
            title = operation["summary"]
            assert 10 <= len(title) <= 75, where
            assert not title.istitle(), f"{where} is titled by the name of a function"
            assert set(operation["tags"]) <= described, where
            assert operation["responses"]["200"]["content"], where
            error = operation["responses"]["400"]["content"]["application/json"]["schema"]
            assert error["$ref"].endswith(("/ErrorResponse", "/Ready")), where
            changes = "control" in operation["tags"]
            assert (operation.get("security") == [{"control": []}]) is changes, where
            takes_body = method in {"post", "put"}
            assert ("requestBody" in operation) is takes_body, where
