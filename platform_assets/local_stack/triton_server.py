"""Start the real Triton Inference Server from a Python environment, without a container.

`python -m platform_assets.local_stack.triton_server --env DIR --repository DIR --state-dir DIR
--http-port N --grpc-port N --metrics-port N`

becomes `tritonserver` (exec), so that its supervisor holds the server itself, and each restart
determines again which models to load. The environment takes the place of NVIDIA's container: it
holds the package `nvidia-pytriton` (server binary and python backend) and ONNX
Runtime, and nothing of this project.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from platform_assets.local_stack.recovery import exclude_corrupt_versions
from platform_assets.local_stack.settings import LOOPBACK, StackError
from platform_assets.local_stack.triton_package import (
    TritonPackage,
    locate_package,
    prepare_backends,
)
from platform_assets.resources.triton_api import CONTROL_HEADER, LOCKED_APIS
from serving_gateway.contract import CONFIG_FILE

LISTENERS: Final = ("http", "grpc", "metrics")
"""Triton's listeners, each on its own TCP port."""
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # determined by the kernel


def triton_arguments(
    *,
    repository: PurePath,
    models: Sequence[str],
    control_key: str,
    ports: Mapping[str, int],
    address: str = LOOPBACK,
    backends: PurePath | None = None,
    shared_memory_prefix: str | None = None,
    exit_timeout_s: int = 10,
) -> tuple[str, ...]:
    """Return the options of `tritonserver` (without the program itself).

    Only the named `models` are loaded, never `*`: others are not verified. Every local user who
    may see the process can read `control_key` in its arguments. `ports` are those of
    `LISTENERS` by name. `backends` and `shared_memory_prefix` (of the python backend) are None for
    NVIDIA's container. A stopping server waits `exit_timeout_s` for requests in flight.
    """
    locked = ",".join(LOCKED_APIS)
    options = [
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        # One failed candidate must not make a server unready that serves all other models.
        "--strict-readiness=false",
        "--exit-on-error=false",
        f"--exit-timeout-secs={exit_timeout_s}",
        *(f"--{name}-address={address}" for name in LISTENERS),
        *(f"--{name}-port={ports[name]}" for name in LISTENERS),
        "--allow-metrics=true",
        "--allow-gpu-metrics=false",
        f"--http-restricted-api={locked}:{CONTROL_HEADER}={control_key}",
        f"--grpc-restricted-protocol={locked}:{CONTROL_HEADER}={control_key}",
        "--log-format=ISO8601",
    ]
    if backends is not None:
        options.append(f"--backend-directory={backends}")
    if shared_memory_prefix is not None:
        options += [
            f"--backend-config={backend},shm-region-prefix-name={shared_memory_prefix}"
            for backend in ("python", "onnxruntime")
        ]
    return tuple(options)


def triton_environment(
    package: TritonPackage, env: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment variables of the server.

    `env/bin` comes first in PATH, by which an embedded Python finds its own environment.
    """
    environ = {k: v for k, v in inherited.items() if k not in {"PYTHONHOME", "PYTHONPATH"}}
    libraries = [str(package.libraries), str(package.libpython)]
    if inherited.get("LD_LIBRARY_PATH"):
        libraries.append(inherited["LD_LIBRARY_PATH"])
    return {
        **environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{env / 'bin'}:{inherited.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(env),
        "PYTHONNOUSERSITE": "1",
    }


def models_to_load(repository: Path) -> tuple[str, ...]:
    """Return the names of the models whose configuration was persisted, and thus verified."""
    if not repository.is_dir():
        return ()
    return tuple(
        sorted(
            entry.name
            for entry in repository.iterdir()
            if not entry.name.startswith(".") and (entry / CONFIG_FILE).is_file()
        )
    )


def control_key_file(state_dir: Path) -> Path:
    """Return the path of the control key of a state directory."""
    return state_dir / "secrets" / "triton-control-key"


def control_key(state_dir: Path) -> str:
    """Return the secret that opens Triton's locked APIs; StackError if the file holds no key."""
    file = control_key_file(state_dir)
    key = persistent_secret(file)
    # Triton splits its option at these characters, and would lock nothing with such a key.
    if len(key) < 16 or any(character in key for character in " :=,\n"):
        raise StackError(
            f"{file} does not hold a control key (16 characters or more, none of ' :=,'): remove "
            "the file; the next start makes a new key"
        )
    return key


def persistent_secret(
    file: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)
) -> str:
    """Return the secret in a file, made on first use (mode 0600).

    Raises:
        StackError: it cannot be read, or is empty.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not file.exists():
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as staged:  # of mode 0600
            staged.write(make())
            staged.flush()
            os.fsync(staged.fileno())
            # A link creates the complete file atomically, or keeps one made by another process.
            with contextlib.suppress(FileExistsError):
                file.hardlink_to(staged.name)
    try:
        secret = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StackError(f"the secret {file} cannot be read: {error}") from error
    if not secret:
        raise StackError(
            f"the secret {file} is empty: remove the file, and the next start makes a new one"
        )
    return secret


def shared_memory_prefix(state_dir: Path) -> str:
    """Return the prefix of the python backend's shared memory regions for a state directory."""
    digest = hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()
    return f"triton_{digest[:16]}_"


def remove_stale_shared_memory(state_dir: Path) -> int:
    """Delete the regions that a killed server of `state_dir` left behind; return their number.

    Only one server runs on a state directory at a time, so none of them is in use.
    """
    count = 0
    for region in _SHARED_MEMORY.glob(f"{shared_memory_prefix(state_dir)}*"):
        region.unlink(missing_ok=True)
        count += 1
    return count


def prepare(
    env: Path,
    repository: Path,
    state_dir: Path,
    ports: Mapping[str, int],
    inherited: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Prepare everything that the server needs; return its command and environment."""
    package = locate_package(env)
    key = control_key(state_dir)
    repository.mkdir(parents=True, exist_ok=True)
    backends = prepare_backends(package, state_dir)
    remove_stale_shared_memory(state_dir)
    for model_name, reason in exclude_corrupt_versions(repository):
        print(f"{model_name}: left out, since {reason}", file=sys.stderr, flush=True)
    options = triton_arguments(
        repository=repository,
        models=models_to_load(repository),
        control_key=key,
        ports=ports,
        backends=backends,
        shared_memory_prefix=shared_memory_prefix(state_dir),
    )
    return [str(package.binary), *options], triton_environment(package, env, inherited)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare and become `tritonserver`; return only if that is impossible."""
    parser = argparse.ArgumentParser(prog="triton_server", description="Become tritonserver.")
    for name in ("env", "repository", "state-dir"):
        parser.add_argument(f"--{name}", type=os.path.abspath, required=True, metavar="DIR")
    for name in LISTENERS:
        parser.add_argument(f"--{name}-port", type=int, required=True, metavar="N")
    options = parser.parse_args(arguments)
    env, repository, state_dir = map(Path, (options.env, options.repository, options.state_dir))
    ports = {name: getattr(options, f"{name}_port") for name in LISTENERS}
    try:
        command, environ = prepare(env, repository, state_dir, ports, os.environ)
        os.execve(command[0], command, environ)  # noqa: S606
    except (StackError, OSError) as error:
        print(f"Triton was not started: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
