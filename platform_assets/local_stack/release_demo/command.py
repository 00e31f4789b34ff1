"""Run the demo on a stack of its own, and sum it up."""

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
"""Everything happens in three minutes: sensors look as often as Dagster lets them, and each
request is in the log at once."""

Running = Callable[[StackSettings, Console], AbstractContextManager[Stack]]


def own_settings(settings: StackSettings) -> StackSettings:
    """Return those of a stack of its own: a folder in the state directory, and free ports.

    Its Triton is its own, too: another one would read another model repository.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in fields(Ports)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        ports = Ports(*(one.getsockname()[1] for one in sockets))
    state = settings.state_dir / "release-demo"
    return replace(settings, state_dir=state, ports=ports, external_triton=None)


def release_demo(settings: StackSettings, console: Console, running: Running) -> None:
    """Tell the story in a stack that `running` starts and ends.

    What an earlier demo left is removed; what this one leaves stays, to look at.

    Raises:
        StackError: the story did not go as it should.
    """
    own, parts = own_settings(settings), _chosen_parts(os.environ.get(PARTS) or "1,2,3,4")
    models = own.state_dir / "models"
    _remove_former(own)
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
    return [int(one) for one in chosen]


def _remove_former(own: StackSettings) -> None:
    if (pid := owner_pid(own)) is not None:
        raise StackError(f"a demo runs already (pid {pid}): look at it, or end it with Ctrl-C")
    if own.state_dir.exists():
        shutil.rmtree(own.state_dir)


def _print_summary(story: Story, console: Console) -> None:
    table = Table("version", "what it was", "what became of it", "chain", "release", "requests")
    for one in story.fates:
        chain, release, requests = f"{one.chain_seconds:.0f} s", "-", "-"
        if one.release is not None:
            release, requests = f"{one.release_seconds:.0f} s", f"{one.requests:,}"
        table.add_row(str(one.version), one.what, one.outcome, chain, release, requests)
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
