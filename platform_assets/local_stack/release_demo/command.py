"""Run the demo on its own stack, and print a summary."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from typing import Final

from rich.console import Console
from rich.table import Table

from platform_assets.intervals import SENSOR_SECONDS
from platform_assets.local_stack.passports import run_passport
from platform_assets.local_stack.release_demo.clients import Clients
from platform_assets.local_stack.release_demo.deliveries import MODEL, write_model_file, write_rows
from platform_assets.local_stack.release_demo.story import ROWS, Story
from platform_assets.local_stack.settings import LOOPBACK, Ports, StackError, StackSettings
from platform_assets.local_stack.stack import Stack, owner_pid
from platform_assets.training.own_code import MODELS_DIR

PARTS: Final = "RELEASE_DEMO_PARTS"
"""Environment variable: the parts of the story, such as 1,3,4; by default all four."""
_SETTINGS: Final = {
    SENSOR_SECONDS: "1",
    "GATEWAY_SAMPLE_FRACTION": "1",
    "GATEWAY_SAMPLE_SECONDS": "1",
}
"""The demo takes three minutes: sensors tick as often as Dagster permits, and each request is
logged immediately."""

Running = Callable[[StackSettings, Console], AbstractContextManager[Stack]]


def demo_settings(settings: StackSettings) -> StackSettings:
    """Return the settings of a separate stack: a folder in the state directory, and free ports.

    It also has its own Triton: an external one would read another model repository.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in fields(Ports)]
        for listener in sockets:
            listener.bind((LOOPBACK, 0))
        ports = Ports(*(listener.getsockname()[1] for listener in sockets))
    state = settings.state_dir / "release-demo"
    return replace(settings, state_dir=state, ports=ports, external_triton=None)


def release_demo(settings: StackSettings, console: Console, running: Running) -> None:
    """Tell the story in a stack that `running` starts and stops.

    The state of an earlier demo is removed; that of this one is kept for inspection.

    Raises:
        StackError: the story did not go as expected.
    """
    own, parts = demo_settings(settings), _chosen_parts(os.environ.get(PARTS) or "1,2,3,4")
    models = own.state_dir / "models"
    _remove_previous_state(own)
    write_model_file(models / MODEL)
    write_rows(models / MODEL, ROWS)
    os.environ.update({**_SETTINGS, MODELS_DIR: str(models)})
    with running(own, console):
        story = Story(own, console, Clients(own.gateway_url), models / MODEL)
        story.tell(parts)
        _print_summary(story, console)
        console.print(f"\nThe passport of version {story.production}, which is in production:")
        if run_passport(own, [MODEL, str(story.production)]):
            raise StackError("the passport was not written")


def _chosen_parts(text: str) -> list[int]:
    chosen = text.split(",")
    if not {*chosen} <= {*"1234"}:
        raise StackError(f"{PARTS}={text!r}: give parts of the story, such as 1,3,4. It has four")
    return [int(part) for part in chosen]


def _remove_previous_state(own: StackSettings) -> None:
    if (pid := owner_pid(own)) is not None:
        raise StackError(f"a demo runs already (pid {pid}): look at it, or end it with Ctrl-C")
    if own.state_dir.exists():
        shutil.rmtree(own.state_dir)


def _print_summary(story: Story, console: Console) -> None:
    table = Table("version", "what it was", "what became of it", "chain", "release", "requests")
    for fate in story.fates:
        chain, release, requests = f"{fate.chain_seconds:.0f} s", "-", "-"
        if fate.release is not None:
            release, requests = f"{fate.release_seconds:.0f} s", f"{fate.requests:,}"
        table.add_row(str(fate.version), fate.what, fate.outcome, chain, release, requests)
    console.print()
    console.print(table)
    clients = story.clients
    by_version = ", ".join(
        f"{count:,} by version {version}" for version, count in sorted(clients.answered.items())
    )
    console.print("requests: those that it got in the steps of its release, and copies of them")
    console.print(
        f"{clients.sent:,} requests of clients in {story.seconds:.0f} s: {by_version}; "
        f"{len(clients.failed)} failed"
    )
