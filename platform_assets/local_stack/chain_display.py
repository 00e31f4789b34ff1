"""Print the progress and the result of a chain."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.markup import escape

from platform_assets.local_stack.chain import ChainResult
from platform_assets.local_stack.run_progress import ChainEvent

_RESUME: Final = (
    "The finished steps are kept: go on from the failed one in Dagster (Re-execute, From failure), "
    "or run make chain again."
)
_REFUSED: Final = (
    "A check refuses the same again: change what it names (the model file, the data, a server that "
    "was away), then run make chain again."
)


class ChainDisplay:
    """Prints the events of one run; `waiting` shows a line that the next one may replace."""

    def __init__(self, console: Console) -> None:
        self.waiting: Callable[[str], None] = console.print
        self._console = console
        self._began = time.monotonic()
        self._failures: list[ChainEvent] = []
        self._page = ""

    def show(self, event: ChainEvent) -> None:
        """Print an event when it arrives."""
        if event.kind == "launched":
            self._page = event.detail
            self._console.print(f"Launched {event.name}: {event.detail}")
        elif event.kind == "asset":
            text = f"{event.name:32} {event.detail} assets, after {self._elapsed()}"
            self._console.print(f"[green]✓[/] {text}")
        elif event.kind == "waiting":
            self.waiting(f"{event.name}, {event.detail}")
        elif event.kind == "check":
            self._console.print(f"  [dim]✓ {event.name}[/]")
        else:
            if event.kind == "failure":
                self._failures.append(event)
            self._print_problem(event)

    def conclude(self, result: ChainResult) -> None:
        """Print the result of the run; for a failure, also its reasons and what to do."""
        if result.succeeded:
            self._console.print(f"The chain took {self._elapsed()}: {self._page}")
        elif result.status == "CANCELED":
            self._console.print(f"[yellow]The run was canceled in Dagster[/]: {self._page}")
        else:
            self._console.print(f"[red]The chain failed[/]: {self._page}")
            for event in self._failures:
                self._print_problem(event)
            is_refused = any(":" in event.name for event in self._failures)  # <asset>:<check>
            self._console.print(_REFUSED if is_refused else _RESUME, highlight=False)

    def leave(self) -> None:
        """Print that the run, if it was launched, continues without this process."""
        if self._page:
            self._console.print(f"The run goes on: {self._page}; cancel it there.")

    def _print_problem(self, event: ChainEvent) -> None:
        colour = "yellow" if event.kind == "warning" else "red"
        detail = escape(event.detail)
        self._console.print(f"[{colour}]✗ {event.name}[/] {detail}", highlight=False)

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:.0f} s"
