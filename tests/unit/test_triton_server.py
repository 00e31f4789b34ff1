"""What a start of Triton is made of: options, environment, secret, parts found or named."""

from __future__ import annotations

import json
import platform
import stat
import threading
from pathlib import Path, PurePosixPath

import pytest

from platform_assets.local_stack.settings import StackError
from platform_assets.local_stack.triton_package import TritonPackage, locate_package
from platform_assets.local_stack.triton_server import (
    control_key,
    control_key_file,
    main,
    models_to_load,
    persistent_secret,
    shared_memory_prefix,
    triton_arguments,
    triton_environment,
)

PORTS = {"http": 1, "grpc": 2, "metrics": 3}
PACKAGE = TritonPackage(
    binary=Path("/env/tritonserver"),
    libraries=Path("/env/libs"),
    python_backend=Path("/env/python"),
    stub=Path("/env/stub"),
    libpython=Path("/python/lib"),
)


def arguments(**changes: object) -> tuple[str, ...]:
    options: dict[str, object] = {
        "repository": PurePosixPath("/models"),
        "models": ["best_model"],
        "control_key": "secret",
        "ports": PORTS,
    }
    return triton_arguments(**{**options, **changes})  # type: ignore[arg-type] # test data


def test_secret_that_a_crash_left_empty_is_refused_with_what_to_do(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.touch()
    with pytest.raises(StackError, match="token is empty: remove the file"):
        persistent_secret(secret)
    secret.write_bytes(b"\xff")
    with pytest.raises(StackError, match="token cannot be read"):
        persistent_secret(secret)
    secret.unlink()
    assert persistent_secret(secret) == persistent_secret(secret) != ""
    assert [*tmp_path.iterdir()] == [secret]


def test_only_named_models_are_loaded_and_never_all() -> None:
    chosen = [option for option in arguments(models=["a", "b"]) if "load-model" in option]
    assert chosen == ["--load-model=a", "--load-model=b"]
    assert not any("load-model" in option for option in arguments(models=[]))
    assert "--model-control-mode=explicit" in arguments(models=[])


def test_a_failed_candidate_neither_stops_the_server_nor_makes_it_unready() -> None:
    assert {"--strict-readiness=false", "--exit-on-error=false"} <= set(arguments())


@pytest.mark.parametrize("option", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_everything_that_changes_what_is_served_is_locked_on_both_protocols(option: str) -> None:
    (value,) = (o.removeprefix(f"{option}=") for o in arguments() if o.startswith(f"{option}="))
    apis, lock = value.split(":")
    assert set(apis.split(",")) == {
        "model-repository",
        "model-config",
        "shared-memory",
        "logging",
        "trace",
    }
    assert lock == "triton-control-key=secret"


def test_all_three_listeners_take_the_given_address_and_ports() -> None:
    ports = {"http": 8000, "grpc": 8001, "metrics": 8002}
    assert {
        "--http-address=0.0.0.0",
        "--grpc-address=0.0.0.0",
        "--metrics-address=0.0.0.0",
        "--http-port=8000",
        "--grpc-port=8001",
        "--metrics-port=8002",
    } <= set(arguments(ports=ports, address="0.0.0.0"))
    assert "--http-address=127.0.0.1" in arguments()


def test_nothing_of_the_embedded_backend_is_asked_of_a_container() -> None:
    assert not any("backend" in option for option in arguments())
    embedded = arguments(backends=Path("/b"), shared_memory_prefix="p_")
    assert "--backend-directory=/b" in embedded
    assert "--backend-config=onnxruntime,shm-region-prefix-name=p_" in embedded


def test_the_environment_leads_to_the_servers_own_python_and_libraries() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "PYTHONPATH": "/somewhere",
        "PYTHONHOME": "/elsewhere",
        "LD_LIBRARY_PATH": "/mine",
        "LANG": "C",
    }
    environ = triton_environment(PACKAGE, Path("/env"), inherited)
    assert environ["PATH"] == "/env/bin:/usr/bin"
    assert environ["LD_LIBRARY_PATH"] == "/env/libs:/python/lib:/mine"
    assert environ["LANG"] == "C"
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(environ)
    assert triton_environment(PACKAGE, Path("/env"), {})["LD_LIBRARY_PATH"].count(":") == 1


def test_models_without_a_persisted_configuration_are_not_loaded(tmp_path: Path) -> None:
    for name in ("verified", "candidate", ".staged"):
        (tmp_path / name / "1").mkdir(parents=True)
    (tmp_path / "verified" / "config.pbtxt").write_text("")
    (tmp_path / ".staged" / "config.pbtxt").write_text("")
    (tmp_path / "also" / "config.pbtxt").mkdir(parents=True)
    (tmp_path / "stray").write_text("")
    assert models_to_load(tmp_path) == ("verified",)
    assert models_to_load(tmp_path / "missing") == ()


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    key = control_key(tmp_path)
    file = control_key_file(tmp_path)
    assert len(key) >= 32
    assert control_key(tmp_path) == key == file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(file.parent.iterdir()) == [file]
    assert control_key(tmp_path / "other") != key


def test_starts_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    keys: list[str] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        keys.append(control_key(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    "content", ["", "short", "sixteen-or-more:and=split", "two lines\nhere-it-is"]
)
def test_a_key_that_would_lock_nothing_is_refused(tmp_path: Path, content: str) -> None:
    file = control_key_file(tmp_path)
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(StackError, match="remove the file"):
        control_key(tmp_path)


def test_two_state_directories_never_share_memory_regions(tmp_path: Path) -> None:
    assert shared_memory_prefix(tmp_path / "a") != shared_memory_prefix(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert shared_memory_prefix(tmp_path / "link") == shared_memory_prefix(tmp_path / "a")


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_another_machine_is_asked_for_an_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(StackError, match=f"this is {machine} {system}.*TRITON_URL"):
        locate_package(tmp_path)


def test_a_missing_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=f"{tmp_path}/gone has no working Python.*TRITON_ENV"):
        locate_package(tmp_path / "gone")


def fake_python(env: Path, **facts: object) -> None:
    """An environment whose interpreter states these facts."""
    python = env / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho '{json.dumps(facts)}'\n")
    python.chmod(0o755)


def test_a_python_without_shared_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    fake_python(
        tmp_path,
        major=3,
        minor=98,
        site=str(tmp_path / "site"),
        libdir=str(tmp_path),
        libpl=None,
        base=str(tmp_path),
        multiarch="x86_64-linux-gnu",
    )
    with pytest.raises(StackError, match=r"libpython3\.98\.so\.1\.0.*apt-get install libpython3"):
        locate_package(tmp_path)


def test_an_environment_without_the_package_is_refused_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpython3.98.so.1.0").touch()
    fake_python(
        tmp_path,
        major=3,
        minor=98,
        site=str(tmp_path / "site"),
        libdir="/install/lib",
        libpl=None,
        base=str(tmp_path),
        multiarch=None,
    )
    with pytest.raises(StackError, match=r"has no .*tritonserver: install nvidia-pytriton"):
        locate_package(tmp_path)


def test_a_start_that_cannot_be_says_why_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--env", str(tmp_path / "gone"), "--repository", str(tmp_path / "r")]
    options += ["--state-dir", str(tmp_path), "--http-port", "1", "--grpc-port", "2"]
    assert main([*options, "--metrics-port", "3"]) == 1
    assert "Triton was not started" in capsys.readouterr().err
