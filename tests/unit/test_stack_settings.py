"""What the stack reads from the environment."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from platform_assets.ledger.keys import read_key
from platform_assets.local_stack.processes import (
    GRPC_TIMEOUT,
    SECRETS,
    environment,
    own_environment,
    services,
)
from platform_assets.local_stack.settings import StackError, stack_settings
from platform_assets.local_stack.stack import stack_secrets, validate_state_dir


def test_the_documented_defaults() -> None:
    settings = stack_settings({}, root=Path("/checkout"))
    assert settings.listening_ports == {
        "DAGSTER_PORT": 3000,
        "MLFLOW_PORT": 5000,
        "GATEWAY_PORT": 8080,
        "TRITON_HTTP_PORT": 8000,
        "TRITON_GRPC_PORT": 8001,
        "TRITON_METRICS_PORT": 8002,
    }
    assert settings.state_dir == Path("/checkout/.local")


def test_every_port_and_the_state_directory_can_be_chosen() -> None:
    settings = stack_settings({"DAGSTER_PORT": "4000", "STATE_DIR": "/elsewhere"})
    assert settings.dagster_url == "http://127.0.0.1:4000"
    assert settings.state_dir == Path("/elsewhere")


@pytest.mark.parametrize("value", ["0", "65536", "http", "-1", "1.5"])
def test_a_port_that_is_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(StackError, match=f"GATEWAY_PORT='{value}'"):
        stack_settings({"GATEWAY_PORT": value})


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(StackError, match="MLFLOW_PORT and DAGSTER_PORT are both 4000"):
        stack_settings({"DAGSTER_PORT": "4000", "MLFLOW_PORT": "4000"})


def test_a_triton_elsewhere_is_not_started_and_its_ports_are_not_claimed() -> None:
    settings = stack_settings({"TRITON_URL": "http://10.0.0.7:8000"})
    assert settings.triton_url == "http://10.0.0.7:8000"
    assert "triton" not in {service.name for service in services(settings)}
    assert not any(name.startswith("TRITON") for name in settings.listening_ports)


def test_secrets_reach_the_services_by_environment_and_never_by_argument() -> None:
    settings = stack_settings({})
    environ = environment(settings, {}, {"TRITON_CONTROL_KEY": "hidden"})
    assert environ["TRITON_CONTROL_KEY"] == "hidden"
    assert not any("hidden" in word for one in services(settings) for word in one.argv)


def test_each_service_gets_only_the_secrets_that_it_needs() -> None:
    everything = {"PATH": "/bin", **dict.fromkeys(SECRETS, "hidden")}
    given = {
        one.name: own_environment(one, everything).keys() - {"PATH"}
        for one in services(stack_settings({}))
    }
    pipeline = {"TRITON_CONTROL_KEY", "GATEWAY_CONTROL_TOKEN", "LEDGER_KEY"}
    assert given == {
        "triton": set(),
        "mlflow": set(),
        "gateway": {"GATEWAY_CONTROL_TOKENS"},
        "dagster-code-server": pipeline,
        "dagster-webserver": set(),
        "dagster-daemon": set(),
    }


def test_operator_and_pipeline_have_named_tokens_that_last(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    first = stack_secrets(settings, {})
    operator = (tmp_path / "secrets" / "gateway-control-token").read_text()
    pipeline = first["GATEWAY_CONTROL_TOKEN"]
    assert operator != pipeline
    assert first["GATEWAY_CONTROL_TOKENS"] == f"operator:{operator},dagster:{pipeline}"
    for file in (tmp_path / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stack_secrets(settings, {}) == first


def test_further_tokens_come_from_the_environment(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    more = {"GATEWAY_CONTROL_TOKENS": "ada:0123456789abcdef"}
    assert stack_secrets(settings, more)["GATEWAY_CONTROL_TOKENS"].endswith(",ada:0123456789abcdef")


def test_the_ledger_has_a_key_that_lasts_unless_another_is_named(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    path = stack_secrets(settings, {})["LEDGER_KEY"]
    made = read_key(path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert made.signing_id == read_key(stack_secrets(settings, {})["LEDGER_KEY"]).signing_id != ""
    assert stack_secrets(settings, {"LEDGER_KEY": "/a/key.pem"})["LEDGER_KEY"] == "/a/key.pem"


@pytest.mark.parametrize("path", ["/a b", "/50%", "/it's", "/$HOME", "/(x)", "/a;b"])
def test_a_state_directory_that_a_server_could_not_use_is_refused(path: str) -> None:
    with pytest.raises(StackError, match="Choose another one"):
        validate_state_dir(stack_settings({"STATE_DIR": path}))


@pytest.mark.parametrize("path", ["/plain/path-1.x_y", "/home/jörg/.local", "/a@b+c=d,e:f"])
def test_an_ordinary_state_directory_is_taken(path: str) -> None:
    validate_state_dir(stack_settings({"STATE_DIR": path}))


def test_services_reach_each_other_past_the_proxy_of_the_user() -> None:
    inherited = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intranet"}
    environ = environment(stack_settings({}), inherited, {})
    assert environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert environ["no_proxy"] == "127.0.0.1,localhost"


def test_dagster_waits_three_minutes_for_its_code_server_by_default() -> None:
    settings = stack_settings({})
    assert environment(settings, {}, {})[GRPC_TIMEOUT] == "180"
    assert environment(settings, {GRPC_TIMEOUT: "60"}, {})[GRPC_TIMEOUT] == "60"
