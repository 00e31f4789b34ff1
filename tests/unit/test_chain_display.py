"""What a person reads of a chain while it runs, and at its end."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console

from platform_assets.local_stack.chain import ChainResult
from platform_assets.local_stack.chain_display import ChainDisplay
from platform_assets.local_stack.run_progress import ChainEvent

PAGE = "http://127.0.0.1:3000/runs/r1"
EVENTS = (
    ChainEvent("launched", "cars_chain", PAGE),
    ChainEvent("asset", "cars/features", "1 of 9"),
    ChainEvent("warning", "cars/features:freshness", "it is old"),
    ChainEvent("failure", "cars/trained_model:is_better", "0.7 is below [0.8]"),
)


def lines_of(events: Iterable[ChainEvent], status: str) -> list[str]:
    """Print the events and the end of a run; return the lines of its end."""
    file = io.StringIO()
    console = Console(file=file, soft_wrap=True)
    display = ChainDisplay(console)
    for event in events:
        display.show(event)
    before = len(file.getvalue())
    display.conclude(ChainResult("r1", status))
    return file.getvalue()[before:].splitlines()


def test_failed_chain_ends_with_its_reasons_and_what_to_do() -> None:
    first, reason, advice = lines_of(EVENTS, "FAILURE")
    assert first == f"The chain failed: {PAGE}"
    assert reason == "✗ cars/trained_model:is_better 0.7 is below [0.8]"
    assert advice.startswith("A check refuses the same again: change what it names")


def test_chain_whose_step_failed_can_go_on_from_it() -> None:
    *_, advice = lines_of([*EVENTS[:2], ChainEvent("failure", "cars/onnx_model", "why")], "FAILURE")
    assert advice == (
        "The finished steps are kept: go on from the failed one in Dagster (Re-execute, From "
        "failure), or run make chain again."
    )


def test_canceled_run_is_not_reported_as_failed() -> None:
    assert lines_of(EVENTS[:3], "CANCELED") == [f"The run was canceled in Dagster: {PAGE}"]


def test_chain_that_succeeded_says_how_long_it_took() -> None:
    assert lines_of(EVENTS[:2], "SUCCESS") == [f"The chain took 0 s: {PAGE}"]
