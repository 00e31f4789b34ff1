"""The environment of a training: its code, and what affects the last bit of its numbers."""

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
"""Tag of an MLflow run: the environment of the training, as JSON."""


def source_tags(description: str) -> dict[str, str]:
    """Return MLflow's own tags of a run: by whom, with which code, what for."""
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
    """Return `GIT_COMMIT`, as set in an image without the repository, or the checkout's commit."""
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

    The library chooses its kernels by processor, and they round differently: the same training on
    two kinds of processors may give two graphs.
    """
    import numpy as np
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped] # ships no stubs

    # Imported so that the list below includes it.
    np.ones((2, 2)) @ np.ones((2, 2))
    kernels = {
        f"{library['internal_api']} {library['version']}": str(library.get("architecture", "any"))
        for library in threadpool_info()
        if library["user_api"] == "blas"
    }
    return json.dumps(
        {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            **dict(sorted(kernels.items())),
        }
    )


def differences(here: str, there: str) -> list[str]:
    """Describe how two environments (`numeric_environment`) differ."""
    now, then = json.loads(here), json.loads(there)
    return [
        f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted(now | then)
        if now.get(name) != then.get(name)
    ]
