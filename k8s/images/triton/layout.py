"""Lay the embedded Triton out as NVIDIA's image has it: `layout.py VENV /opt/tritonserver`.

Writes TARGET/triton/backends and the launcher TARGET/bin/tritonserver. The launcher gives the
library path to the server alone: set for the whole container it would reach the shell and Python
of probes.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from platform_assets.local_stack.triton_package import locate_package, prepare_backends


def launcher(binary: Path, backends: Path, libraries: list[Path], env: Path) -> str:
    """Return the script that becomes the server; its own options come first, so others win."""
    path = ":".join(map(str, libraries))
    return (
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH={shlex.quote(path)} VIRTUAL_ENV={shlex.quote(str(env))}\n"
        f'export PATH={shlex.quote(str(env / "bin"))}:"$PATH" PYTHONNOUSERSITE=1\n'
        f'exec {shlex.quote(str(binary))} --backend-directory={shlex.quote(str(backends))} "$@"\n'
    )


def main(env: Path, target: Path) -> None:
    """Write both below `target`."""
    package = locate_package(env)
    backends = prepare_backends(package, target)
    program = target / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.write_text(
        launcher(package.binary, backends, [package.libraries, package.libpython], env)
    )
    program.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
