"""`python -m platform_assets.local_stack up|demo|release-demo|check|chain|passport|down|status`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

from rich.console import Console
from rich.markup import escape

from platform_assets.local_stack import release_progress, report
from platform_assets.local_stack.chain import chain_job_name, reload_definitions, run_chain
from platform_assets.local_stack.chain_display import ChainDisplay
from platform_assets.local_stack.passports import run_passport
from platform_assets.local_stack.processes import SOURCE_PATH
from platform_assets.local_stack.release_demo.command import release_demo
from platform_assets.local_stack.settings import StackError, StackSettings, stack_settings
from platform_assets.local_stack.shutdown import stop_stack
from platform_assets.local_stack.stack import (
    Stack,
    lock_state_dir,
    owner_pid,
    validate_state_dir,
    write_sample_source,
)
from platform_assets.model_spec import ModelSpec, table_job_name
from serving_gateway.contract import DEFAULT_MODEL, Release, is_model_name


class _StopSignal(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that only cleanup code and `main` catch it."""


def _up(settings: StackSettings, console: Console) -> int:
    with _running(settings, console) as stack:
        if report.production(settings).version is None:
            _chain(settings, console, DEFAULT_MODEL)
        else:
            console.print("Something is in production already; the chain was not run again.")
        report.print_addresses(settings, console)
        _watch(stack, console)


def _demo(settings: StackSettings, console: Console) -> int:
    with _running(settings, console):
        if not _chain(settings, console, DEFAULT_MODEL):
            return 1
        report.print_proof(settings, console)
    return 0


def _model_chain(settings: StackSettings, console: Console) -> int:
    """Take one model (`MODEL`) of the running stack from its source to production.

    If its file has a `release`, a later version is taken to its release, which then continues
    without this process.
    """
    model_name = os.environ.get("MODEL") or DEFAULT_MODEL
    if not is_model_name(model_name):
        raise StackError(
            f"MODEL={model_name!r} is not the name of a model: use the model_name of its file"
        )
    owner = owner_pid(settings)
    if owner is None:
        raise StackError("no stack runs with this state directory: start one with `make up`")
    spec = _spec_of(model_name, owner)
    reload_definitions(settings.dagster_url)
    jobs = [*(table_job_name(table.name) for table in spec.tables), chain_job_name(model_name)]
    before = release_progress.present_release(settings, model_name) if spec.release else None
    succeeded = all(_run(settings, console, job, stops_with_us=False) for job in jobs)
    if succeeded and spec.release:
        _follow_release(settings, console, model_name, before)
    console.print(f"In production: {escape(str(report.production(settings, model_name)))}")
    if not succeeded:
        return 1
    console.print(f"Its page: {settings.gateway_url}/?model={model_name}")
    report.print_call(settings, console, model_name)
    return 0


def _follow_release(
    settings: StackSettings, console: Console, model_name: str, before: Release | None
) -> None:
    """Wait until the first version is in production, or the release of a later one has begun."""
    if report.production(settings, model_name).version is None:
        with _waiting(console, "the first version is switched to"):
            release_progress.await_first_version(settings, model_name)
        return
    with _waiting(console, "the release begins"):
        release = release_progress.await_release(settings, model_name, before)
    release_progress.print_release(settings, console, model_name, release)


def _spec_of(model_name: str, owner: int) -> ModelSpec:
    """Return the spec of a model; StackError if there is no such model.

    Reads the model files like the running stack, which is faster than reloading its definitions.
    """
    import psutil

    from platform_assets.components.loading import explain_missing_model, model_folders, read_models

    try:
        environ = psutil.Process(owner).environ()
    except psutil.Error:  # a process of another user
        environ = dict(os.environ)
    models = read_models(model_folders(environ))
    why = explain_missing_model(models, model_name)
    if why is not None:
        raise StackError(why)
    return next(spec for spec in models.specs.values() if spec.name == model_name)


def _check(settings: StackSettings, _console: Console) -> int:
    """Check all model files, with the stack's source for the model that ships."""
    from platform_assets.components.__main__ import main as components

    with suppress(OSError):  # a missing source is reported by the check
        write_sample_source(settings)
    os.environ[SOURCE_PATH] = str(settings.source_path)
    return components(["check"])


def _passport(settings: StackSettings, _console: Console) -> int:
    """Write the passport of `MODEL` and `VERSION`; verify if `VERIFY` is 1 or a passport's file."""
    verify, key = os.environ.get("VERIFY", ""), os.environ.get("KEY", "")
    model, version = os.environ.get("MODEL") or DEFAULT_MODEL, os.environ.get("VERSION", "")
    what = [model, version] if verify in {"", "1"} else [verify]
    options = [*(["--verify"] if verify else []), *(["--key", key] if key else [])]
    return run_passport(settings, [*options, *what])


def _release_demo(settings: StackSettings, console: Console) -> int:
    release_demo(settings, console, _running)
    return 0


def _down(settings: StackSettings, console: Console) -> int:
    pid = owner_pid(settings)
    if pid is None:
        console.print(f"Nothing runs with state in {settings.state_dir}.")
        return 0
    stop_stack(settings, pid, lambda name: console.print(f"stopped {name}"))
    console.print("Stopped. The state is kept; `make up` resumes it.")
    return 0


def _status(settings: StackSettings, console: Console) -> int:
    return report.print_status(settings, owner_pid(settings), console)


@contextmanager
def _waiting(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Show what is being waited for: in one updated line on a terminal, else line by line."""
    with console.status(what) as spinner:
        yield spinner.update if console.is_terminal else console.print


@contextmanager
def _running(settings: StackSettings, console: Console) -> Iterator[Stack]:
    validate_state_dir(settings)  # before anything is created there
    with lock_state_dir(settings):
        stack = Stack(settings, os.environ)
        with _waiting(console, "starting") as waiting:

            def progress(name: str, doing: str) -> None:
                if doing.startswith("ready"):
                    console.print(f"[green]✓[/] {name:18} {doing}")
                else:
                    waiting(f"{name}: {doing}")

            stack.start(progress)
        try:
            yield stack
        finally:
            # A second Ctrl-C must not interrupt stopping and leave processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            console.print("stopping")
            stack.stop()


def _chain(settings: StackSettings, console: Console, model_name: str) -> bool:
    if not _run(settings, console, chain_job_name(model_name), stops_with_us=True):
        return False
    # If the file has a `release`, another run switches to the first version.
    release_progress.await_first_version(settings, model_name)
    return True


def _run(settings: StackSettings, console: Console, job: str, *, stops_with_us: bool) -> bool:
    """Run a job; `stops_with_us` says that its Dagster belongs to this process."""
    display = ChainDisplay(console)
    try:
        with _waiting(console, f"{job} runs") as display.waiting:
            result = run_chain(settings.dagster_url, job, display.show)
    except _StopSignal:
        if not stops_with_us:
            display.leave()
        raise
    display.conclude(result)
    return result.succeeded


def _watch(stack: Stack, console: Console) -> NoReturn:
    """Report restarts until the user stops the stack."""
    seen = {name: state.pid for name, state in stack.states().items()}
    reported: set[str] = set()
    while True:
        time.sleep(1)
        for name, state in stack.states().items():
            if state.is_abandoned and name not in reported:
                # Keep the others running: losing one service must not stop serving.
                reported.add(name)
                console.print(f"[red]{name} keeps failing[/] and is not restarted any more; see")
                console.print(f"  {stack.log_of(name)}", markup=False, highlight=False)
            if state.pid and state.pid != seen.get(name):
                console.print(f"[yellow]{name} ended and was restarted[/] (pid {state.pid})")
                seen[name] = state.pid


_COMMANDS: Final[dict[str, Callable[[StackSettings, Console], int]]] = {
    "up": _up,
    "demo": _demo,
    "check": _check,
    "chain": _model_chain,
    "passport": _passport,
    "release-demo": _release_demo,
    "down": _down,
    "status": _status,
}


def main(arguments: list[str]) -> int:
    """Run one command; return 0 on success, 1 after printing the reason otherwise."""
    console = Console(soft_wrap=True)
    if len(arguments) != 1 or arguments[0] not in _COMMANDS:
        console.print(f"usage: python -m platform_assets.local_stack {'|'.join(_COMMANDS)}")
        return 2

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _StopSignal

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        return _COMMANDS[arguments[0]](stack_settings(os.environ), console)
    except StackError as error:
        console.print(f"[red]{arguments[0]}:[/] {escape(str(error))}", highlight=False)
        return 1
    except OSError as error:
        console.print(
            f"[red]{arguments[0]}:[/] {escape(str(error))}. Name a STATE_DIR that this user may "
            "read and write",
            highlight=False,
        )
        return 1
    except _StopSignal:
        return 0 if arguments[0] == "up" else 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
