"""The server binary and its parts inside an environment that holds `nvidia-pytriton`."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from platform_assets.local_stack.settings import StackError
from platform_assets.resources.atomic_files import replace_file

BACKEND_SOURCE: Final = Path(__file__).parent / "onnxruntime_backend"
_PROBE: Final = """
import json, sys, sysconfig
get = sysconfig.get_config_var
print(json.dumps({
    "minor": sys.version_info[1], "major": sys.version_info[0], "base": sys.base_prefix,
    "libdir": get("LIBDIR"), "multiarch": get("MULTIARCH"), "libpl": get("LIBPL"),
    "site": sysconfig.get_path("platlib"),
}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonPackage:
    """The parts of an installed `nvidia-pytriton` that a run needs."""

    binary: Path
    libraries: Path
    """Folder of the shared libraries that the wheel bundles."""
    python_backend: Path
    """Folder of `libtriton_python.so` and `triton_python_backend_utils.py`."""
    stub: Path
    """The python backend's worker, built for the environment's own Python."""
    libpython: Path
    """Folder of the shared libpython of that Python."""


def locate_package(env: Path) -> TritonPackage:
    """Locate the server and its parts in the virtual environment `env`.

    Raises StackError if the wheel does not run on this machine, or a part is missing.
    """
    machine, system = platform.machine(), platform.system()
    if (system, machine) != ("Linux", "x86_64"):
        raise StackError(
            f"the embedded Triton runs only on x86-64 Linux, and this is {machine} {system}: start "
            "Triton in NVIDIA's container and give its address as TRITON_URL"
        )
    facts = _probe(env)
    version = f"{facts['major']}.{facts['minor']}"
    server = Path(facts["site"]) / "pytriton" / "tritonserver"
    package = TritonPackage(
        binary=server / "bin" / "tritonserver",
        libraries=Path(facts["site"]) / "nvidia_pytriton.libs",
        python_backend=server / "backends" / "python",
        stub=server / "python_backend_stubs" / version / "triton_python_backend_stub",
        libpython=_libpython_folder(facts, version),
    )
    for part in (package.binary, package.libraries, package.python_backend, package.stub):
        if not part.exists():
            raise StackError(
                f"Triton's environment {env} (Python {version}) has no {part}: install "
                "nvidia-pytriton into it from the lock file of Triton's environment"
            )
    return package


def _probe(env: Path) -> dict[str, str]:
    python = env / "bin" / "python"
    try:
        result = subprocess.run(
            [python, "-I", "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(
            f"Triton's environment {env} has no working Python ({error}): create it again, or "
            "point TRITON_ENV at the right one"
        ) from error
    facts: dict[str, str] = json.loads(result.stdout)
    return facts


def _libpython_folder(facts: Mapping[str, str], version: str) -> Path:
    name = f"libpython{version}.so.1.0"
    folders = [facts["libdir"], facts["libpl"], str(Path(facts["base"]) / "lib")]
    if facts["multiarch"]:
        folders += [f"/usr/lib/{facts['multiarch']}", f"/lib/{facts['multiarch']}"]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder)
    raise StackError(
        f"Triton's Python workers need the shared library {name}, and the Python {version} of "
        f"Triton's environment comes without it. Install it (Debian, Ubuntu: apt-get install "
        f"libpython{version}; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install "
        f"{version}) or build the environment on a Python that has it"
    )


def prepare_backends(package: TritonPackage, state_dir: Path) -> Path:
    """Populate `<state_dir>/triton/backends` and return it; idempotent.

    All parts are copies: Triton refuses a backend library behind a link that leaves its folder,
    and an edit of the checkout must not change what a running server loads next.
    """
    backends = state_dir / "triton" / "backends"
    python = backends / "python"
    ours = backends / "onnxruntime"
    python.mkdir(parents=True, exist_ok=True)
    ours.mkdir(parents=True, exist_ok=True)
    for source in (
        package.python_backend / "libtriton_python.so",
        package.python_backend / "triton_python_backend_utils.py",
        package.stub,
    ):
        replace_file(python / source.name, source.read_bytes(), mode=0o777)
    for source in BACKEND_SOURCE.glob("*.py"):
        replace_file(ours / source.name, source.read_bytes())
    return backends
