"""Where a training runs: its code, and what decides about the last bit of a fitted number."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

ENVIRONMENT_TAG: Final = "serving.environment"
"""Tag of an MLflow run: the environment that it was trained in, as JSON."""


def source_tags(description: str) -> dict[str, str]:
    """Return MLflow's own tags of a run: who, by which code, what for."""
    tags = {
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "platform_assets",
        "mlflow.source.git.commit": _git_commit(),
        "mlflow.user": _user(),
        "mlflow.note.content": description,
    }
    return {name: text for name, text in tags.items() if text}


@cache
def _git_commit() -> str:
    """`GIT_COMMIT`, which an image without the repository sets, or else the checkout's commit."""
    if commit := os.environ.get("GIT_COMMIT"):
        return commit
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # git is not installed
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def numeric_environment() -> str:
    """Describe interpreter, machine and the kernels of the linear algebra library, as JSON.

    The library chooses its kernels by the processor, and they round differently: the same
    training on two kinds of processors may give two graphs.
    """
    import numpy as np
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped] # ships no stubs

    # Loaded by now, so that the list below has it.
    np.ones((2, 2)) @ np.ones((2, 2))
    kernels = {
        f"{one['internal_api']} {one['version']}": str(one.get("architecture", "any"))
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    return json.dumps(
        {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            **dict(sorted(kernels.items())),
        }
    )


def differences(here: str, there: str) -> list[str]:
    """Say what two environments (`numeric_environment`) do not share."""
    now, then = json.loads(here), json.loads(there)
    return [
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(now | then)
        if now.get(name) != then.get(name)
    ]
