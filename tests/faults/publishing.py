"""`python -m tests.faults.publishing FOLDER TIMES`: publish a version, killed at every step.

A process of its own, from which each publisher is forked. It prints, for each step at which a
publisher was killed, whether what stands there is nothing or a whole version, and whether another
publisher then made it whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from platform_assets.resources.model_repository import ModelRepository, Provenance, RepositoryError

MODEL: Final = os.urandom(300_000)
NAME: Final = "best_model"
_FILE_OPERATIONS: Final = ("open", "os.", "shutil.")


def provenance(version: int, onnx: bytes = MODEL, run_id: str = "run") -> Provenance:
    """Of a version of these bytes."""
    digest = hashlib.sha256(onnx).hexdigest()
    return Provenance(NAME, version, run_id, digest, "fingerprint", "dagster")


def killed_at(step: int, work: Callable[[], Any]) -> bool:
    """Do the work in a child that dies before its `step`th file operation; whether it did."""
    child = os.fork()
    if child == 0:
        steps = 0

        def die(event: str, _: Any) -> None:
            nonlocal steps
            if event.startswith(_FILE_OPERATIONS):
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def play(folder: Path, times: int) -> dict[str, int]:
    """Kill publishers at every step; counts of what was seen."""
    seen = {"kills": 0, "partial": 0, "visible": 0, "not made whole": 0}
    wanted = provenance(1)
    for number in range(times):
        step = 1
        while True:
            # Each its own: what killed ones leave behind is looked at by those after them.
            repository = ModelRepository(root=str(folder / f"{number}-{step}"))
            if not killed_at(step, functools.partial(repository.package, MODEL, wanted)):
                break
            step += 1
            seen["kills"] += 1
            if repository.versions(NAME):
                seen["visible"] += 1
                seen["partial"] += bool(repository.broken(NAME, [1]))
            try:
                repository.package(MODEL, wanted)
                repository.verify(NAME, 1)
            except RepositoryError:
                seen["not made whole"] += 1
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(play(Path(sys.argv[1]), int(sys.argv[2]))))
