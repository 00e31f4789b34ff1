"""`make k8s-local`: play the platform by podman, to production and back from a crash."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import msgspec
from rich.console import Console
from rich.markup import escape

from platform_assets.local_stack.chain import chain_job_name, run_chain
from platform_assets.local_stack.http import answers_ok, get, post
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import StackError
from serving_gateway.contract import DEFAULT_MODEL, FeatureSource, ModelStatus, PredictResponse
from tests.manifests.local.images import ROOT
from tests.manifests.local.platform import PlayedPlatform, played_objects
from tests.manifests.local.podman import Podman, PodmanError
from tests.manifests.local.variables import UntranslatableError
from tests.manifests.rendering import KustomizeError

_ROW: Final = {"data": [[5.1, 3.5, 1.4, 0.2]], "client_id": "me"}
_PROOF: Final = f"proof/{DEFAULT_MODEL}/latest/"
_BACK_WITHIN_S: Final = 120.0


def _chain(platform: PlayedPlatform, console: Console) -> None:
    def show(event: ChainEvent) -> None:
        if event.kind == "asset":
            console.print(f"[green]✓[/] {event.name:32} {event.detail} assets")
        elif event.kind in {"warning", "failure"}:
            console.print(f"[yellow]✗ {event.name}[/] {escape(event.detail)}", highlight=False)

    began = time.monotonic()
    result = run_chain(platform.url("dagster-webserver"), chain_job_name(DEFAULT_MODEL), show)
    if not result.succeeded:
        raise PodmanError("the chain failed, so nothing is in production; the reason stands above")
    console.print(f"The chain took {time.monotonic() - began:.0f} s.")


def _predict(platform: PlayedPlatform, console: Console) -> None:
    """Ask by values and by the key of a row.

    Raises:
        PodmanError: the row was not looked up in the feature store.
    """
    url = f"{platform.url('gateway')}/predict"
    for asked, source in (
        (_ROW, FeatureSource.PAYLOAD),
        ({"entity_id": 17}, FeatureSource.FEAST),
    ):
        answer = post(url, asked, PredictResponse)
        console.rule(f"POST /predict {json.dumps(asked)}", align="left")
        _print_json(answer, console)
        if answer.feature_source is not source:
            raise PodmanError(f"the features came from {answer.feature_source}, not {source}")


def _lose_triton(platform: PlayedPlatform, console: Console) -> None:
    """Kill the server, then take its pod away: each time the same version comes back.

    Raises:
        PodmanError: it does not come back, or with another version.
    """
    before = post(f"{platform.url('gateway')}/predict", _ROW, PredictResponse)
    killed = platform.process_of("triton")
    os.kill(killed, signal.SIGKILL)
    _noticed(platform, "Triton was killed", console)
    platform.until(
        lambda: platform.process_of("triton") not in {0, killed},
        _BACK_WITHIN_S,
        "podman starts Triton again",
        "triton",
    )
    _same_again(platform, before, console)
    platform.remove("triton")
    _noticed(platform, "Triton's pod was removed", console)
    platform.put_back("triton")
    _same_again(platform, before, console)


def _noticed(platform: PlayedPlatform, what: str, console: Console) -> None:
    platform.until(
        lambda: not answers_ok(_model_ready(platform)),
        30,
        "the gateway notices the loss",
        "gateway",
    )
    console.print(f"{what}: the gateway answers 503 for {DEFAULT_MODEL}")


def _model_ready(platform: PlayedPlatform) -> str:
    return f"{platform.url('gateway')}/models/{DEFAULT_MODEL}/ready"


def _same_again(platform: PlayedPlatform, before: PredictResponse, console: Console) -> None:
    platform.wait_for("triton", "readinessProbe", _BACK_WITHIN_S)
    # The gateway's own probe says nothing of a single model.
    platform.until(
        lambda: answers_ok(_model_ready(platform)),
        _BACK_WITHIN_S,
        f"{DEFAULT_MODEL} is ready again",
        "gateway",
    )
    after = post(f"{platform.url('gateway')}/predict", _ROW, PredictResponse)
    for name in ("version", "run_id", "predictions", "probabilities"):
        if getattr(after, name) != getattr(before, name):
            raise PodmanError(f"Triton came back with another {name}: {before} then, {after} now")
    console.print(f"[green]✓[/] version {after.version} serves again, and answers the same")


def _prove(platform: PlayedPlatform, console: Console) -> None:
    for name in ("triton_ready_and_repo_index.txt", "reload_variant_A.json"):
        console.rule(name, align="left")
        console.print(platform.file("platform-state", _PROOF + name).rstrip(), markup=False)
    served = get(f"{platform.url('gateway')}/models/{DEFAULT_MODEL}", ModelStatus)
    console.rule(f"GET /models/{DEFAULT_MODEL}, effective", align="left")
    for slot in served.effective.values():
        _print_json(slot, console)


def _print_json(body: msgspec.Struct, console: Console) -> None:
    console.print(msgspec.json.encode(body).decode(), markup=False, highlight=False)


def _confined(platform: PlayedPlatform, console: Console) -> None:
    found = platform.confinement()
    broken = {name: faults for name, faults in found.items() if faults}
    if broken:
        raise PodmanError(f"containers that are not confined as the manifests say: {broken}")
    console.print(
        f"[green]✓[/] {len(found)} containers: user and group 10001, read-only root, no "
        f"capabilities, no new privileges, seccomp: {', '.join(found)}"
    )


def _all(folder: Path, console: Console) -> None:
    def progress(name: str, doing: str) -> None:
        console.print(f"  {name:28} {doing}", highlight=False)

    platform = PlayedPlatform(Podman(folder), progress)
    platform.prepare(played_objects())
    try:
        platform.start()
        _chain(platform, console)
        platform.ready(60)
        _predict(platform, console)
        _lose_triton(platform, console)
        _confined(platform, console)
        _prove(platform, console)
    finally:
        # Stopping is not interrupted by a second Ctrl-C: nothing may be left behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        console.print("stopping")
        platform.stop()


def main() -> int:
    """Play all of it; 0 when every step held, 1 with the reason otherwise."""
    console = Console(soft_wrap=True)
    if os.geteuid() != 0:
        console.print("[red]k8s-local:[/] podman is used as root here: run it as root")
        return 1

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    state = Path(os.environ.get("STATE_DIR") or ROOT / ".local").expanduser()
    began = time.monotonic()
    try:
        _all(state / "k8s", console)
    except (KustomizeError, PodmanError, UntranslatableError, StackError, OSError) as error:
        console.print(f"[red]k8s-local:[/] {escape(str(error))}", highlight=False)
        console.print("Everything that was started is stopped again; the images stay.")
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(
        f"[green]Proved:[/] the rendered manifests took {DEFAULT_MODEL} to production in "
        f"containers, and Triton came back from every loss ({time.monotonic() - began:.0f} s)."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
