"""Make and verify passports of the stack's models from the records in its state directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from platform_assets.local_stack.processes import LEDGER_KEY, environment
from platform_assets.local_stack.settings import StackError, StackSettings

VARIABLES: Final = (
    "DAGSTER_HOME",
    "MLFLOW_TRACKING_URI",
    "MODEL_REPOSITORY",
    "LEDGER_DIR",
)


def run_passport(settings: StackSettings, arguments: Sequence[str]) -> int:
    """Run the passport command on this state directory; return its exit status."""
    from platform_assets.passport.__main__ import main

    stack = environment(settings, os.environ, {})
    os.environ.update({name: stack[name] for name in VARIABLES})
    if settings.ledger_key.is_file() and not os.environ.get(LEDGER_KEY):
        os.environ[LEDGER_KEY] = str(settings.ledger_key)
    if not settings.dagster_home.is_dir():
        raise StackError(f"there is no state in {settings.state_dir}: `make up` makes it")
    return main(arguments)
