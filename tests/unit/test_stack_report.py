"""What `make chain` says at its end."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from platform_assets.local_stack import __main__ as cli
from platform_assets.local_stack.chain import ChainResult
from platform_assets.local_stack.processes import GATEWAY_TOKENS
from platform_assets.local_stack.report import print_addresses, production, sample_call
from platform_assets.local_stack.run_progress import ChainEvent
from platform_assets.local_stack.settings import StackSettings, stack_settings
from platform_assets.local_stack.stack import lock_state_dir, stack_secrets
from platform_assets.resources.failures import failure
from platform_assets.serving.proof import PROOF_PAGE
from tests.support.model_status import effective_version, model_status


class HostsNothing(BaseHTTPRequestHandler):
    """A gateway on which no model was ever reloaded."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    with HTTPServer(("127.0.0.1", 0), HostsNothing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield {"STATE_DIR": str(tmp_path), "GATEWAY_PORT": str(server.server_port)}
        server.shutdown()


def test_a_chain_of_a_model_that_was_never_served_fails_without_a_word_of_what_was(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    why = failure("row 7 is odd", "correct it").description or ""

    def run_chain(_url: str, job: str, on_event: object) -> ChainResult:
        assert job == "cars_chain"
        event = ChainEvent("failure", "cars__features", why)
        assert callable(on_event)
        on_event(event)
        return ChainResult("r1", "FAILURE")

    monkeypatch.setattr(cli, "run_chain", run_chain)
    monkeypatch.setattr(cli, "reload_definitions", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of pytest stay
    for name, value in {**environ, "MODEL": "cars"}.items():
        monkeypatch.setenv(name, value)
    with lock_state_dir(stack_settings(os.environ)):
        assert cli.main(["chain"]) == 1

    said = capsys.readouterr().out
    as_it_happens, at_the_end = said.split("The chain failed")
    for part in (as_it_happens, at_the_end):
        assert part.count("Nothing changed in serving: ") == 1
    assert "In production: nothing\n" in said
    assert "still" not in said


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([ChainEvent("launched", "cars_chain", "http://dagster/runs/r1")], True),
        ([], False),
    ],
)
def test_interrupted_make_chain_says_where_the_run_goes_on(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: list[ChainEvent],
    said: bool,
) -> None:
    def run_chain(_url: str, _job: str, on_event: Callable[[ChainEvent], None]) -> ChainResult:
        for event in events:
            on_event(event)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal did not interrupt the chain")

    monkeypatch.setattr(cli, "run_chain", run_chain)
    monkeypatch.setattr(cli, "reload_definitions", lambda _: None)
    for name, value in {**environ, "MODEL": "cars"}.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with lock_state_dir(stack_settings(os.environ)):
            assert cli.main(["chain"]) == 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    text = "The run goes on: http://dagster/runs/r1; cancel it there."
    assert (text in capsys.readouterr().out) is said


def test_production_is_unknown_where_another_server_answers(tmp_path: Path) -> None:
    class Stranger(HostsNothing):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        settings = stack_settings({"STATE_DIR": str(tmp_path), "GATEWAY_PORT": port})
        said = str(production(settings))
        server.shutdown()
    assert said.startswith("nothing; the gateway does not answer: the answer cannot be read")


class HostsOneVersion(HostsNothing):
    """A gateway that serves a version, and keeps the token of each POST."""

    tokens: ClassVar[list[str | None]] = []
    body = msgspec.json.encode(model_status({"A": effective_version(3)}))

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.tokens.append(f"{self.path} {self.headers['authorization']}")
        self.do_GET()


def test_make_up_ends_with_a_rollback_that_works_and_with_the_proof(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), HostsOneVersion) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        settings = stack_settings({"STATE_DIR": str(tmp_path), "GATEWAY_PORT": port})
        token = stack_secrets(settings, {})[GATEWAY_TOKENS].split(",")[0].removeprefix("operator:")
        proof = settings.proof_dir / "best_model" / "latest" / PROOF_PAGE
        without = addresses(settings)
        proof.parent.mkdir(parents=True)
        proof.write_text("<html>")
        lines = addresses(settings)
        rollback = lines[lines.index("Return to the version before it:") + 1]
        direct = {**os.environ, "no_proxy": "*"}
        subprocess.run(["sh", "-c", rollback], env=direct, check=True, timeout=30)
        server.shutdown()

    assert HostsOneVersion.tokens == [f"/variant/A/rollback Bearer {token}"]
    assert lines[lines.index("Its proof:") + 1] == f"  {proof}"
    assert "Its proof:" not in without


def test_no_rollback_is_offered_while_nothing_is_in_production(environ: dict[str, str]) -> None:
    assert "Return to the version before it:" not in addresses(stack_settings(environ))


def addresses(settings: StackSettings) -> list[str]:
    """Return the lines that `make up` ends with."""
    file = io.StringIO()
    print_addresses(settings, Console(file=file, soft_wrap=True))
    return file.getvalue().splitlines()


def test_the_sample_call_is_a_row_of_the_model_and_safe_in_a_shell(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    file = tmp_path / "feast" / "data" / "people" / "features.parquet"
    file.parent.mkdir(parents=True)
    row = {
        "id": pa.array([1]),
        "event_timestamp": pa.array([0], pa.timestamp("us", tz="UTC")),
        "height": pa.array([1.1], pa.float32()),
        "name": pa.array(["O'Brien $HOME"]),
        "age": pa.array([None], pa.int64()),
    }
    parquet.write_table(pa.table(row), file)

    words = shlex.split(sample_call(settings, "people"))

    assert words[:3] == ["curl", "-s", f"{settings.gateway_url}/models/people/predict"]
    shown = {"height": 1.1, "name": "O'Brien $HOME", "age": None}
    assert json.loads(words[-1]) == {"instances": [shown]}


def test_the_sample_call_of_a_model_of_tables_has_keys_and_request(tmp_path: Path) -> None:
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    file = tmp_path / "feast" / "data" / "fraud" / "labels.parquet"
    file.parent.mkdir(parents=True)
    row = {
        "customer": pa.array([1]),
        "shop": pa.array(["s"]),
        "time": pa.array([0], pa.timestamp("us", tz="UTC")),
        "amount": pa.array([1.1], pa.float32()),
        "is_fraud": pa.array([False]),
    }
    parquet.write_table(pa.table(row), file)

    words = shlex.split(sample_call(settings, "fraud"))

    shown = {"entities": {"customer": 1, "shop": "s"}, "request": {"amount": 1.1}}
    assert json.loads(words[-1]) == shown
