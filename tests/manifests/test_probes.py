"""What each probe of the manifests says in each state of the real Triton and the real gateway."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

import psutil
import pytest

from platform_assets.resources.triton import TritonRefused, TritonResource
from serving_gateway.contract import DEFAULT_MODEL, MODEL_FILE
from tests.support.gateway_harness import RunningGateway, run_gateway, serve_versions
from tests.support.kubelet import PROBES, Kubelet, run_triton_container
from tests.support.onnx_models import telltale, write_entry, write_version
from tests.support.servers import (
    LOOPBACK,
    RunningTriton,
    ServerError,
    answers_ok,
    free_port,
    wait_until,
)

YES, NO = True, False
EXPECTED = {
    # What a pod is in              startup readiness liveness
    ("triton", "empty"):                       (YES, YES, YES),
    ("triton", "loading"):                     (NO, NO, NO),
    ("triton", "failed load"):                 (NO, NO, YES),
    ("triton", "one model of two failed"):     (YES, YES, YES),
    ("triton", "serving"):                     (YES, YES, YES),
    ("triton", "serving, failed candidate"):   (YES, YES, YES),
    ("triton", "exiting"):                     (NO, NO, NO),
    # A replica is ready for models that it can answer: one that is down takes no replica out.
    ("gateway", "empty"):                      (YES, YES, YES),
    ("gateway", "loading"):                    (YES, YES, YES),
    ("gateway", "failed load"):                (YES, YES, YES),
    ("gateway", "serving"):                    (YES, YES, YES),
    ("gateway", "serving, failed candidate"):  (YES, YES, YES),
    ("gateway", "exiting"):                    (NO, NO, NO),
}  # fmt: skip

Said = tuple[bool, bool, bool]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Said]:
    """What the probes said, state by state."""
    home = tmp_path_factory.mktemp("probes")
    repository = home / "repository"
    repository.mkdir()
    port = free_port()
    found: dict[tuple[str, str], Said] = {}
    tritons = Kubelet("triton", home / "triton")
    gateways = Kubelet("gateway", home / "gateway")

    def of_triton() -> Said:
        env = {"MODEL_REPOSITORY": str(repository), "TRITON_HTTP_PORT": str(port)}
        return said(tritons, {"http": port}, env)

    def of_gateway(gateway: RunningGateway) -> Said:
        return said(gateways, {"http": int(gateway.url.rpartition(":")[2])}, {})

    def triton(*, live: bool) -> contextlib.AbstractContextManager[RunningTriton]:
        def ready() -> bool:
            return not live or answers_ok(f"http://{LOOPBACK}:{port}/v2/health/live")

        return run_triton_container(tritons, repository, port=port, ready=ready)

    with run_gateway(home, f"http://{LOOPBACK}:{port}") as gateway:
        with triton(live=True) as running:
            found["triton", "empty"] = of_triton()
            found["gateway", "empty"] = of_gateway(gateway)
            running.kill()

        write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
        with triton(live=True) as running:
            gateway.routed(1)
            gateway.wait_ready()
            found["triton", "serving"] = of_triton()
            found["gateway", "serving"] = of_gateway(gateway)
            write_version(repository, DEFAULT_MODEL, 2, b"no graph")
            with pytest.raises(TritonRefused):
                serve_versions(running, 1, 2)
            found["triton", "serving, failed candidate"] = of_triton()
            found["gateway", "serving, failed candidate"] = of_gateway(gateway)
            # The gateway's own kept connections are what it waits for.
            running.process.signal(signal.SIGTERM)
            wait_until(lambda: not answers_ok(f"{running.http_url}/v2/health/live"), 5, "exiting")
            found["triton", "exiting"] = of_triton()
            assert running.process.running
            running.kill()

        with triton(live=False) as running, loading_held(running):
            wait_until(lambda: not gateway.ready(), 10, "the gateway notices")
            found["triton", "loading"] = of_triton()
            found["gateway", "loading"] = of_gateway(gateway)
            running.kill()

        (repository / DEFAULT_MODEL / "1" / MODEL_FILE).write_bytes(b"no graph")
        write_entry(repository, "cars", {1: telltale(1)})
        with triton(live=True) as running:
            found["triton", "one model of two failed"] = of_triton()
            TritonResource(url=running.http_url, control_key=running.control_key).endpoints()[
                0
            ].unload("cars")
            found["triton", "failed load"] = of_triton()
            found["gateway", "failed load"] = of_gateway(gateway)
            running.kill()

        with unfinished_request(gateway):
            gateway.process.signal(signal.SIGTERM)
            wait_until(lambda: not answers_ok(f"{gateway.url}/health"), 5, "exiting")
            found["gateway", "exiting"] = of_gateway(gateway)
            assert gateway.process.running
    return found


@pytest.mark.parametrize(("of", "state"), EXPECTED)
def test_probes_say_what_is_true(
    observed: dict[tuple[str, str], Said], of: str, state: str
) -> None:
    assert observed[of, state] == EXPECTED[of, state]


def said(kubelet: Kubelet, ports: dict[str, int], env: dict[str, str]) -> Said:
    startup, readiness, liveness = (kubelet.probe(which, ports, env) for which in PROBES)
    return startup, readiness, liveness


@contextlib.contextmanager
def loading_held(triton: RunningTriton) -> Iterator[None]:
    """Stop the process that loads the model as soon as there is one, until the block is left."""

    def loaders() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess, ServerError):
            family = triton.process.server.children(recursive=True)
            return [one for one in family if "stub" in one.name()]
        return []

    wait_until(lambda: bool(loaders()), 20, "a model being loaded")
    held = loaders()
    for process in held:
        process.suspend()
    yield
    for process in held:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def unfinished_request(gateway: RunningGateway) -> Iterator[None]:
    """A control call whose body has not arrived completely."""
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"POST /variant/A/reload HTTP/1.1\r\nhost: {host}:{port}\r\n"
        f"authorization: Bearer {gateway.control_token}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode())
        wait_until(lambda: gateway.metric("gateway_requests_in_flight") >= 2, 5, "under way")
        yield
