"""The parts of `make release-demo`: rows, model file, faulty pipeline, clients."""

from __future__ import annotations

import csv
import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from platform_assets.components.model_file import read_model
from platform_assets.local_stack.release_demo import deliveries, strict
from platform_assets.local_stack.release_demo.clients import Clients
from platform_assets.local_stack.release_demo.command import PARTS, demo_settings, release_demo
from platform_assets.local_stack.settings import StackError, stack_settings
from tests.support.servers import LOOPBACK, wait_until


def rows_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "deliveries.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_changed_unit_changes_distances_alone(tmp_path: Path) -> None:
    deliveries.write_rows(tmp_path, 50)
    kilometres = rows_in(tmp_path)
    deliveries.write_rows(tmp_path, 50, "m")
    metres = rows_in(tmp_path)
    for one, other in zip(kilometres, metres, strict=True):
        assert float(other["distance"]) == pytest.approx(1000 * float(one["distance"]))
        assert {**one, "distance": ""} == {**other, "distance": ""}


def test_more_rows_begin_with_the_same_ones(tmp_path: Path) -> None:
    deliveries.write_rows(tmp_path, 50)
    few = rows_in(tmp_path)
    deliveries.write_rows(tmp_path, 80)
    assert rows_in(tmp_path)[:50] == few


@pytest.mark.parametrize("candidate", ["usual", "strict"])
def test_the_model_file_is_valid(tmp_path: Path, candidate: str) -> None:
    deliveries.write_model_file(tmp_path, "strict" if candidate == "strict" else "usual")
    deliveries.write_rows(tmp_path, 10)
    spec = read_model(tmp_path / "defs.yaml")
    assert spec.model_name == deliveries.MODEL
    assert spec.release is not None


def test_the_pipeline_with_its_own_list_refuses_the_new_city_alone(tmp_path: Path) -> None:
    deliveries.write_rows(tmp_path, 200)
    table = pd.read_csv(tmp_path / "deliveries.csv")
    fitted = strict.build().fit(table, table["late"])
    asked = pd.DataFrame(itertools.islice(deliveries.requests(seed=1), 50))
    assert len(fitted.predict(asked)) == 50
    with pytest.raises(ValueError, match=deliveries.NEW_CITY):
        fitted.predict(asked.assign(city=deliveries.NEW_CITY))


def test_clients_ask_at_their_rate_and_count_what_fails() -> None:
    asked: list[bytes] = []

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])))
            is_refused = deliveries.NEW_CITY.encode() in asked[-1]
            body = b'{"code": "refused"}' if is_refused else b'{"version": 7}'
            self.send_response(503 if is_refused else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    clients = Clients(f"http://{LOOPBACK}:{server.server_port}", per_second=400)
    try:
        began = time.monotonic()
        with clients.asking():
            wait_until(lambda: clients.sent >= 100, 60, "answers to come")
            seconds = time.monotonic() - began
            assert not clients.failed
            clients.has_new_city = True
            wait_until(lambda: bool(clients.failed), 10, "a client of the new city to ask")
    finally:
        server.shutdown()
        server.server_close()
    assert seconds >= 0.2, "they ask no faster than they should"
    assert clients.answered == {7: clients.sent - len(clients.failed)}
    assert "503" in clients.failed[0]


def test_the_demo_leaves_a_running_stack_alone(tmp_path: Path) -> None:
    environ = {"STATE_DIR": str(tmp_path), "TRITON_URL": "http://127.0.0.1:8000"}
    settings = stack_settings(environ)
    own = demo_settings(settings)
    assert own.external_triton is None
    assert own.state_dir == tmp_path / "release-demo"
    ports = own.ports.named().values()
    assert len({*ports, *settings.ports.named().values()}) == 12


def test_parts_that_the_story_does_not_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PARTS, "1,5")
    settings = stack_settings({"STATE_DIR": str(tmp_path)})
    with pytest.raises(StackError, match="such as 1,3,4"):
        release_demo(settings, Console(), lambda *_: pytest.fail("a stack was started"))
    assert not (tmp_path / "release-demo").exists()
