"""The Triton resource against a real Triton, and every foreign exception against its own kind."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from geventhttpclient.response import (
    HTTPConnectionClosed,
    HTTPParseError,
    HTTPProtocolViolationError,
)
from tritonclient.utils import InferenceServerException

from platform_assets.resources.triton import TritonEndpoint, TritonResource
from platform_assets.resources.triton_api import (
    TritonAnswerError,
    TritonError,
    TritonLocked,
    TritonNotReady,
    TritonRefused,
    TritonUnreachable,
    VersionMismatch,
)
from platform_assets.resources.triton_failures import translate_triton_errors
from serving_gateway.contract import DEFAULT_MODEL as MODEL
from tests.support.onnx_models import string_echo, telltale, write_entry, write_version
from tests.support.servers import LOOPBACK, RunningTriton, free_port, loaded_config, run_triton

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)


def endpoint(
    url: str, grpc_url: str = "", control_key: str = "k", **limits: float
) -> TritonEndpoint:
    """The only server of a resource."""
    triton = TritonResource(url=url, grpc_url=grpc_url, control_key=control_key, **limits)
    (only,) = triton.endpoints()
    return only


def running(server: RunningTriton, *, grpc: bool = True) -> TritonEndpoint:
    return endpoint(server.http_url, server.grpc_url if grpc else "", server.control_key)


@pytest.fixture
def shared(shared_triton: RunningTriton) -> TritonEndpoint:
    return running(shared_triton)


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Iterator[RunningTriton]:
    """A Triton whose loaded versions the test may change."""
    write_entry(repository, MODEL, {1: telltale(1)})
    with run_triton(repository, tmp_path) as server:
        yield server


def test_index_and_ready_endpoint_agree_on_what_serves(shared: TritonEndpoint) -> None:
    assert shared.ready_versions(MODEL) == (1, 2)
    assert [shared.version_ready(MODEL, version) for version in (1, 2, 3)] == [True, True, False]
    assert [(e.name, e.version, e.state) for e in shared.index(MODEL)] == [
        (MODEL, 1, "READY"),
        (MODEL, 2, "READY"),
    ]
    assert shared.ready_versions("unknown") == ()


@pytest.mark.parametrize("version", [1, 2])
def test_an_inference_is_answered_by_the_version_that_was_asked(
    shared: TritonEndpoint, version: int
) -> None:
    answer = shared.infer(MODEL, version, {"features": ROWS}, ["label"])
    assert list(answer) == ["label"]
    assert answer["label"].ravel().tolist() == [version, version]


def test_without_named_outputs_all_come(shared: TritonEndpoint) -> None:
    assert set(shared.infer(MODEL, 1, {"features": ROWS})) == {"label", "probabilities"}


def test_an_array_in_another_memory_order_is_sent_as_it_reads(
    shared: TritonEndpoint,
) -> None:
    columns = np.asfortranarray(ROWS)
    expected = shared.infer(MODEL, 1, {"features": ROWS})["probabilities"]
    got = shared.infer(MODEL, 1, {"features": columns})["probabilities"]
    np.testing.assert_array_equal(got, expected)


def test_another_version_in_the_answer_is_an_error_not_a_guess(
    shared: TritonEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritonclient.http import InferenceServerClient

    real = InferenceServerClient.infer

    def astray(self: InferenceServerClient, name: str, inputs: object, **options: object) -> object:
        return real(self, name, inputs, **{**options, "model_version": "2"})

    monkeypatch.setattr(InferenceServerClient, "infer", astray)
    with pytest.raises(VersionMismatch, match=r"asked best_model version 1 .* version 2 answered"):
        shared.infer(MODEL, 1, {"features": ROWS})


@pytest.mark.parametrize("dtype", ["U8", "S8", "O"])
def test_text_goes_out_and_comes_back_as_text(own: RunningTriton, dtype: str) -> None:
    triton = running(own)
    write_entry(own.repository, "echo", {1: string_echo()})
    triton.load("echo")
    words = np.array([["a"], ["longer"]], dtype=dtype)
    if dtype == "O":
        words = np.array([["ä, ö\x00"], [""]], dtype=object)
    answer = triton.infer("echo", 1, {"text": words})
    expected = [[w.decode() if isinstance(w, bytes) else str(w) for w in row] for row in words]
    assert answer["echo"].tolist() == expected


def test_a_candidate_is_loaded_beside_production_and_retired_again(own: RunningTriton) -> None:
    triton = running(own)
    write_version(own.repository, MODEL, 2, telltale(2))
    config = loaded_config(triton.url, triton.control_key, MODEL, 1)
    config["version_policy"] = {"specific": {"versions": [1, 2]}}
    triton.load(MODEL, config)
    triton.wait_until_ready(MODEL, 2, timeout_s=20)
    assert triton.ready_versions(MODEL) == (1, 2)
    config["version_policy"] = {"specific": {"versions": [2]}}
    triton.load(MODEL, config)
    assert triton.ready_versions(MODEL) == (2,)
    triton.unload(MODEL)
    with pytest.raises(TritonNotReady, match="unloaded"):
        triton.wait_until_ready(MODEL, 2, timeout_s=20)


@pytest.mark.parametrize("grpc", [True, False], ids=["grpc", "http"])
def test_a_failed_load_tells_tritons_reason_and_what_still_serves(
    own: RunningTriton, grpc: bool
) -> None:
    triton = running(own, grpc=grpc)
    write_version(own.repository, MODEL, 2, b"not a model")
    config = loaded_config(triton.url, triton.control_key, MODEL, 1)
    config["version_policy"] = {"specific": {"versions": [1, 2]}}
    with pytest.raises(TritonRefused) as refused:
        triton.load(MODEL, config)
    assert refused.value.status in (400, 500)
    assert "version 2" in refused.value.reason
    assert triton.ready_versions(MODEL) == (1,)
    with pytest.raises(TritonNotReady, match="Still READY: 1"):
        triton.wait_until_ready(MODEL, 2, timeout_s=20)


def test_waiting_for_a_version_that_is_never_loaded_ends_in_time(shared: TritonEndpoint) -> None:
    with pytest.raises(TritonNotReady, match=r"version 9 is not READY.*Still READY: 1, 2"):
        shared.wait_until_ready(MODEL, 9, timeout_s=0.2)


@pytest.mark.parametrize("grpc", [True, False], ids=["grpc", "http"])
@pytest.mark.parametrize(
    "call",
    [
        lambda triton: triton.index(),
        lambda triton: triton.load(MODEL),
        lambda triton: triton.unload(MODEL),
    ],
)
def test_a_wrong_control_key_opens_nothing(
    shared_triton: RunningTriton, call: Callable[[TritonEndpoint], object], grpc: bool
) -> None:
    address = shared_triton.grpc_url if grpc else ""
    stranger = endpoint(shared_triton.http_url, address, "wrong")
    with pytest.raises(TritonLocked, match="TRITON_CONTROL_KEY"):
        call(stranger)
    assert stranger.version_ready(MODEL, 1)
    assert set(stranger.infer(MODEL, 1, {"features": ROWS})["label"].ravel()) == {1}


def test_the_control_key_is_not_shown() -> None:
    assert "hidden-secret" not in repr(TritonResource(url="http://x", control_key="hidden-secret"))


def test_a_request_that_triton_refuses_keeps_its_own_words(shared: TritonEndpoint) -> None:
    with pytest.raises(TritonRefused, match="version 9 is not found"):
        shared.infer(MODEL, 9, {"features": ROWS})
    with pytest.raises(TritonRefused, match="wrong_name"):
        shared.infer(MODEL, 1, {"wrong_name": ROWS})


def test_use_from_several_threads_at_once(shared: TritonEndpoint) -> None:
    wrong: list[object] = []

    def ask(version: int) -> None:
        for _ in range(10):
            answer = shared.infer(MODEL, version, {"features": ROWS})
            if answer["label"].ravel().tolist() != [version, version]:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(version,)) for version in (1, 2, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_listening_is_unavailable() -> None:
    triton = endpoint(f"http://{LOOPBACK}:{free_port()}")
    with pytest.raises(TritonUnreachable, match=r"Triton at http://127.0.0.1:\d+ cannot be reach"):
        triton.version_ready(MODEL, 1)
    with pytest.raises(TritonUnreachable):
        triton.wait_until_ready(MODEL, 1, timeout_s=0.1)


@pytest.mark.parametrize("address", [None, "triton.invalid:8001"])
def test_a_load_without_a_server_at_the_grpc_address_is_unavailable(address: str | None) -> None:
    address = address or f"{LOOPBACK}:{free_port()}"
    triton = endpoint("http://unused", address)
    with pytest.raises(TritonUnreachable, match=address):
        triton.load(MODEL)


def test_a_load_that_takes_too_long_is_unavailable(shared_triton: RunningTriton) -> None:
    with pytest.raises(TritonUnreachable, match="Deadline"):
        replace(running(shared_triton), load_timeout_s=1e-6).load(MODEL)


def test_an_unknown_host_is_unavailable() -> None:
    triton = endpoint("http://triton.invalid:8000")
    with pytest.raises(TritonUnreachable, match=r"triton\.invalid"):
        triton.version_ready(MODEL, 1)


@contextlib.contextmanager
def peer(answer: bytes | None) -> Iterator[str]:
    """A server that answers one request with these bytes and hangs up; None: never answers."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                if answer is None:
                    done.wait(30)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            done.set()
            thread.join()


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, TritonUnreachable),
        (b"", TritonUnreachable),
        (b"HTTP/1.1 200 OK\r\nConte", TritonUnreachable),
        (http(b"[1,2,3,4,5]")[:-3], TritonUnreachable),
        (http(b'{"error":"busy"}', b"503 Service Unavailable"), TritonUnreachable),
        (http(b"<html>", b"502 Bad Gateway"), TritonUnreachable),
        (http(b'{"error":"no"}', b"403 Forbidden"), TritonLocked),
        (http(b'{"error":"no"}', b"400 Bad Request"), TritonRefused),
        (b"SSH-2.0-OpenSSH_9\r\n", TritonUnreachable),
        (http(b"<html>"), TritonAnswerError),
        (http(b'[{"nme":"x"}]'), TritonAnswerError),
        (http(b'[{"name":"x","version":"one"}]'), TritonAnswerError),
        (http(b"7"), TritonAnswerError),
    ],
)
def test_every_way_to_answer_wrongly_has_its_own_kind(
    answer: bytes | None, kind: type[TritonError]
) -> None:
    with peer(answer) as url, pytest.raises(TritonError) as failure:
        endpoint(url, timeout_s=0.5).index()
    assert type(failure.value) is kind
    assert url in str(failure.value)


@pytest.mark.parametrize(
    ("foreign", "kind"),
    [
        (TimeoutError("timed out"), TritonUnreachable),
        (ConnectionRefusedError(111, "refused"), TritonUnreachable),
        (ConnectionResetError(104, "reset"), TritonUnreachable),
        (BrokenPipeError(32, "pipe"), TritonUnreachable),
        (socket.gaierror(-2, "unknown name"), TritonUnreachable),
        (OSError(113, "no route"), TritonUnreachable),
        (RuntimeError("Cannot resolve x:1"), TritonUnreachable),
        (HTTPConnectionClosed("connection closed."), TritonUnreachable),
        (HTTPProtocolViolationError("two answers"), TritonUnreachable),
        (HTTPParseError("bad"), TritonUnreachable),
        (InferenceServerException("not sent"), TritonAnswerError),
        (InferenceServerException("no", status="400"), TritonRefused),
        (InferenceServerException("no", status="404"), TritonRefused),
        (InferenceServerException("no", status="403"), TritonLocked),
        (InferenceServerException("broke", status="500"), TritonRefused),
        (InferenceServerException("busy", status="503"), TritonUnreachable),
        (InferenceServerException("bad", status="StatusCode.INVALID_ARGUMENT"), TritonRefused),
        (InferenceServerException("broke", status="StatusCode.INTERNAL"), TritonRefused),
        (InferenceServerException("what", status="StatusCode.UNKNOWN"), TritonRefused),
        (InferenceServerException("gone", status="StatusCode.UNAVAILABLE"), TritonUnreachable),
        (
            InferenceServerException("late", status="StatusCode.DEADLINE_EXCEEDED"),
            TritonUnreachable,
        ),
        (
            InferenceServerException(
                "This protocol is restricted, expecting header 'x'", status="StatusCode.UNAVAILABLE"
            ),
            TritonLocked,
        ),
        (ValueError("not JSON"), TritonAnswerError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), TritonAnswerError),
        (KeyError("outputs"), TritonAnswerError),
        (TypeError("'int'"), TritonAnswerError),
        (struct.error("short"), TritonAnswerError),
    ],
)
def test_every_foreign_exception_is_translated_once(
    foreign: Exception, kind: type[TritonError]
) -> None:
    with pytest.raises(TritonError) as failure, translate_triton_errors("http://t", "ask", 1):
        raise foreign
    assert type(failure.value) is kind
    assert failure.value.__cause__ is foreign


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "grpc://x:8001", "https://x", "http://", ""])
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(TritonError, match="use http://HOST:PORT"):
        endpoint(url).index()


def test_importing_the_resource_loads_no_client_library() -> None:
    code = (
        "import sys, platform_assets.resources.triton\n"
        "print([m for m in ('tritonclient', 'gevent', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
