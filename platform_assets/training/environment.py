"""What, beside data, file and lock, decides about the last bit of a fitted number."""

from __future__ import annotations

import json
import platform
from typing import Final

ENVIRONMENT_TAG: Final = "serving.environment"
"""Tag of an MLflow run: the environment that it was trained in, as JSON."""


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
