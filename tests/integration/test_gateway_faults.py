"""The gateway while Triton, MLflow or the record are lost: I2, I3, I8, I9, I12."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from serving_gateway.contract import DEFAULT_MODEL, MODEL_FILE
from tests.support.gateway_harness import Client, RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import config_text, telltale, write_config, write_entry
from tests.support.servers import RunningTriton, run_triton, wait_until


def test_a_retired_version_hands_over_without_a_failed_request(
    tmp_path: Path, repository: Path
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        with Client(gateway.url) as one, Client(gateway.url) as two:
            for _ in range(3):
                gateway.routed(2)
                serve_versions(triton, 2)
                serve_versions(triton, 1, 2)
                gateway.routed(1)
                serve_versions(triton, 1)
                serve_versions(triton, 1, 2)
        assert {status for status, _ in [*one.answers, *two.answers]} == {200}


def test_the_loss_of_triton_is_answered_at_once_and_heals_by_itself(
    tmp_path: Path, repository: Path
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        with Client(gateway.url, pause_s=0.02) as client:
            client.waits_for(lambda answer: answer == (200, 1))
            triton.kill()
            client.waits_for(lambda answer: answer[0] == 503)
            lost = gateway.predict()
            assert lost.status_code == 503
            assert lost.headers["retry-after"] == "1"
            assert lost.json()["still_served"] == {"A": 1}
            wait_until(lambda: not gateway.ready(), 5, "not ready")
            assert gateway.models()["ssot"]["prod_served_version"] is None
            assert gateway.client.get("/health").status_code == 200
            triton.restart()
            client.waits_for(lambda answer: answer == (200, 1))
            gateway.wait_ready()
        assert {status for status, _ in client.answers} == {200, 503}
        assert max(client.seconds) < 2


def test_a_frozen_triton_times_out(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
    env = {
        "GATEWAY_REQUEST_SECONDS": "1",
        "GATEWAY_PROBE_SECONDS": "0.3",
        "GATEWAY_STALENESS_SECONDS": "1",
    }
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url, env=env) as gateway,
    ):
        gateway.routed(1)
        assert gateway.predict().status_code == 200
        triton.process.signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert gateway.predict().status_code == 504
            assert 0.9 < time.monotonic() - started < 5
            wait_until(lambda: gateway.predict().status_code == 503, 10, "failing at once")
            assert not gateway.ready()
            started = time.monotonic()
            assert gateway.predict().status_code == 503
            assert time.monotonic() - started < 0.8, "not for the second that it has"
        finally:
            triton.process.signal(signal.SIGCONT)
        gateway.wait_ready()
        assert gateway.predict().status_code == 200


def test_another_version_after_a_restart_never_answers(tmp_path: Path, repository: Path) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)}, serve=[1])
    with (
        run_triton(repository, tmp_path) as triton,
        run_gateway(tmp_path, triton.http_url) as gateway,
    ):
        gateway.routed(1)
        with Client(gateway.url, pause_s=0.02) as client:
            write_config(repository, DEFAULT_MODEL, config_text(DEFAULT_MODEL, telltale(2), [2]))
            triton.restart()
            wait_until(lambda: triton.version_ready(DEFAULT_MODEL, 2), 30, "version 2 READY")
            client.waits_for(lambda answer: answer[0] == 503)
            wait_until(lambda: "READY" in gateway.predict().json()["error"], 10, "the reason")
            assert gateway.models()["ssot"]["served_versions"] == [2]
            assert gateway.models()["ssot"]["prod_served_version"] is None
            assert not gateway.ready()
        assert {version for _, version in client.answers} == {1, None}
        # The bytes of version 1 are back where they belong: it answers again by itself.
        assert (repository / DEFAULT_MODEL / "1" / MODEL_FILE).exists()
        serve_versions(triton, 1, 2)
        gateway.wait_ready()
        assert gateway.predict().json()["version"] == 1


def test_requests_ask_neither_registry_nor_store(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    # An MLflow that accepts connections and never answers would hold up whoever asks it.
    import socket

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        env = {
            "GATEWAY_MLFLOW_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "GATEWAY_MLFLOW_SECONDS": "2",
        }
        with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
            gateway.routed(1)
            path = gateway.state_dir / f"routing-{DEFAULT_MODEL}.json"
            path.unlink()
            started = time.monotonic()
            for _ in range(50):
                assert gateway.predict().status_code == 200
            assert time.monotonic() - started < 2
            assert gateway.ready()
            # What is in effect is given back to a store that lost it.
            wait_until(path.exists, 5, "the record is back")
            gateway.routed(2)
            record = json.loads(path.read_text())
            assert record["generation"] == 2
            assert record["previous"]["A"][0]["version"] == 1


@pytest.mark.parametrize("content", ["{", '{"schema": 99}', '{"model_name": "other", "schema": 1}'])
def test_a_record_that_cannot_be_trusted_is_refused_and_the_last_good_one_kept(
    tmp_path: Path, shared_triton: RunningTriton, content: str
) -> None:
    with run_gateway(tmp_path, shared_triton.http_url) as gateway:
        gateway.routed(1)
        path = gateway.state_dir / f"routing-{DEFAULT_MODEL}.json"
        path.write_text(content)
        wait_until(lambda: gateway.models()["routing"]["store_problem"], 5, "the problem is seen")
        assert gateway.ready()
        assert gateway.predict().json()["version"] == 1
        refused = gateway.reload(version=2, run_id="run-2")
        assert (refused.status_code, refused.json()["code"]) == (503, "record_refused")
        assert path.read_text() == content


def test_a_second_process_follows_within_a_second_and_a_restarted_one_resumes(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    def version(gateway: RunningGateway) -> int | None:
        found: int | None = gateway.predict().json().get("version")
        return found

    with run_gateway(tmp_path, shared_triton.http_url, name="one") as one:
        with run_gateway(tmp_path, shared_triton.http_url, name="two") as two:
            one.routed(2)
            started = time.monotonic()
            wait_until(lambda: version(two) == 2, 5, "the other process follows")
            assert time.monotonic() - started < 1
        with run_gateway(tmp_path, shared_triton.http_url, name="three") as three:
            assert three.ready()
            assert version(three) == 2
