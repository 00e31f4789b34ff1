"""Print the addresses, status and proof of the stack."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from shlex import quote
from typing import Any, Final
from urllib.error import HTTPError

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from platform_assets.decimals import shortest_decimal
from platform_assets.local_stack.chain import chain_job_name, models_with_chain
from platform_assets.local_stack.http import get, post
from platform_assets.local_stack.processes import services
from platform_assets.local_stack.settings import StackError, StackSettings
from serving_gateway.contract import DEFAULT_MODEL, HealthStatus, Mode, ModelStatus, PredictResponse

SAMPLE_ROW: Final = (5.1, 3.5, 1.4, 0.2)
_PROOF_PAGE: Final = "proof.html"
_PROOF_FILES: Final = ("triton_ready_and_repo_index.txt", "reload_variant_A.json")


@dataclass(frozen=True, slots=True)
class Production:
    """The gateway's report of variant A; `version` is None unless Triton confirms it READY."""

    version: int | None
    pinned: bool = False
    reasons: tuple[str, ...] = ()
    """Why nothing is in production."""

    def __str__(self) -> str:
        if self.version is not None:
            return f"version {self.version}" + (" (pinned)" if self.pinned else "")
        return "; ".join(("nothing", *self.reasons))


def production(settings: StackSettings, model_name: str = DEFAULT_MODEL) -> Production:
    """Ask the gateway which version of a model is in production now."""
    try:
        status = get(f"{settings.gateway_url}/models/{model_name}", ModelStatus)
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError) and error.code == HTTPStatus.NOT_FOUND:
            return Production(None)  # never served
        return Production(None, reasons=(f"the gateway does not answer: {error}",))
    slot = status.effective.get("A")
    if slot is not None and slot.ready:
        return Production(slot.version, pinned=slot.mode == Mode.PINNED)
    return Production(None, reasons=status.replica.reasons)


def other_models(settings: StackSettings) -> tuple[list[str], list[str]]:
    """Return the other models than the default one: hosted by the gateway, and never hosted.

    Both are empty if the gateway does not answer; the latter also if Dagster does not.
    """
    try:
        status = get(f"{settings.gateway_url}/models", ModelStatus)
    except (OSError, ValueError):
        return [], []
    jobs = {chain_job_name(name) for name in (*status.models, DEFAULT_MODEL)}
    never = []
    with suppress(StackError):
        names = models_with_chain(settings.dagster_url)
        never = [name for name in names if chain_job_name(name) not in jobs]
    return [name for name in status.models if name != DEFAULT_MODEL], never


def print_addresses(settings: StackSettings, console: Console) -> None:
    """Print all addresses, commands to predict and to roll back, and the path of the proof."""
    console.print()
    for name, url in (
        ("Dagster", settings.dagster_url),
        ("MLflow", settings.mlflow_url),
        ("gateway", settings.gateway_url),
        ("API page", f"{settings.gateway_url}/docs"),
        ("Triton", settings.triton_url),
    ):
        console.print(f"  {name:9} {url}")
    served = production(settings)
    console.print(f"\nIn production: {escape(str(served))}")
    print_call(settings, console)
    if served.version is not None:
        console.print("Return to the version before it:")
        console.print(f"  {rollback_call(settings)}", markup=False, highlight=False)
    proof = settings.proof_dir / DEFAULT_MODEL / "latest" / _PROOF_PAGE
    if proof.is_file():
        console.print("Its proof:")
        console.print(f"  {proof}", markup=False, highlight=False)
    console.print("\nCtrl-C stops everything; the state stays.")


def print_call(settings: StackSettings, console: Console, model_name: str = DEFAULT_MODEL) -> None:
    """Print a shell command that requests a prediction of the model."""
    console.print("Ask it:")
    console.print(f"  {sample_call(settings, model_name)}", markup=False, highlight=False)


def sample_call(settings: StackSettings, model_name: str = DEFAULT_MODEL) -> str:
    """Return a shell command that requests a prediction for a model's first row, or an iris."""
    path = "/predict"
    body: dict[str, Any] = {"data": [SAMPLE_ROW], "client_id": "me"}
    if model_name != DEFAULT_MODEL:
        path = f"/models/{model_name}/predict"
        body = _first_row_body(settings.state_dir / "feast" / "data" / model_name)
    return (
        f"curl -s {settings.gateway_url}{path} -H 'content-type: application/json' "
        f"-d {quote(json.dumps(body))}"
    )


def rollback_call(settings: StackSettings) -> str:
    """Return a shell command that returns the default model to its previous version."""
    return (
        f"curl -s -X POST {settings.gateway_url}/variant/A/rollback "
        f'-H "authorization: Bearer $(cat {settings.operator_token})"'
    )


def _first_row_body(folder: Path) -> dict[str, Any]:
    """Return the body of a request for the first training row of a model.

    Key columns precede the time, all others follow it. For a model of several tables, only the
    labels are available, whose last column is the target.
    """
    import pyarrow as pa
    from pyarrow import parquet

    from platform_assets.features.storage import FEATURES_FILE, LABELS_FILE

    features, labels = folder / FEATURES_FILE, folder / LABELS_FILE
    with parquet.ParquetFile(features if features.is_file() else labels) as file:
        first = next(file.iter_batches(1))
    row: dict[str, Any] = {}
    for field in first.schema:
        value = first[field.name][0].as_py()
        if value is not None and pa.types.is_float32(field.type):
            value = shortest_decimal(value)
        row[field.name] = value
    time = next(n for n, field in enumerate(first.schema) if pa.types.is_timestamp(field.type))
    names = first.schema.names
    if features.is_file():
        return {"instances": [{name: row[name] for name in names[time + 1 :]}]}
    return {
        "entities": {name: row[name] for name in names[:time]},
        "request": {name: row[name] for name in names[time + 1 : -1]},
    }


def print_proof(settings: StackSettings, console: Console) -> None:
    """Print the newest proof and a fresh prediction; StackError if one is missing."""
    folder = settings.proof_dir / DEFAULT_MODEL / "latest"
    for name in _PROOF_FILES:
        path = folder / name
        if not path.is_file():
            raise StackError(f"the chain left no {name} in {folder}")
        _print_block(console, name, path.read_text())
    try:
        health = get(f"{settings.gateway_url}/health", HealthStatus)
        status = get(f"{settings.gateway_url}/models", ModelStatus)
        body = {"data": [SAMPLE_ROW], "client_id": "me"}
        answer = post(f"{settings.gateway_url}/predict", body, PredictResponse)
    except (OSError, ValueError) as error:
        raise StackError(f"the gateway did not answer: {error}") from error
    _print_block(console, "GET /health", _pretty(health))
    _print_block(console, "GET /models", _pretty(status))
    _print_block(console, "POST /predict", _pretty(answer))
    console.print(
        f"[green]Proved:[/] version {answer.version} (run {answer.run_id}) is READY in "
        "Triton, routed to by every gateway replica, and answers."
    )


def print_status(settings: StackSettings, owner: int | None, console: Console) -> int:
    """Print the services and what is in production; return 0 if all run and a version serves."""
    if owner is None:
        console.print("Nothing runs with this state directory; start it with make up")
        console.print(f"state: {settings.state_dir}")
        return 1
    table = Table("service", "runs", "address")
    all_ready = True
    for service in services(settings):
        ready = service.ready()
        all_ready &= ready
        table.add_row(service.name, "[green]yes[/]" if ready else "[red]no[/]", service.address)
    console.print(table)
    console.print(f"state: {settings.state_dir}, held by pid {owner}")
    served = production(settings)
    console.print("in production:")
    console.print(f"  {DEFAULT_MODEL} (the default model): {escape(str(served))}")
    hosted, never = other_models(settings)
    for model_name in hosted:
        console.print(f"  {model_name}: {escape(str(production(settings, model_name)))}")
    for model_name in never:
        console.print(f"  {model_name}: never in production")
    return 0 if all_ready and served.version is not None else 1


def _pretty(body: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def _print_block(console: Console, title: str, text: str) -> None:
    console.rule(title, align="left")
    console.print(text.rstrip(), markup=False, highlight=False)
