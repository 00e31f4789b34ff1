"""Rolling updates as Kubernetes makes them, of the real gateways and the real Triton, on HAProxy.

New pods start before old ones go (maxSurge 1, maxUnavailable 0): the new one's probes pass, its
address joins the Service, and then the old one is deleted: its preStop hook and the removal of
its address begin together, SIGTERM follows the hook, SIGKILL the grace period. Commands, probes,
hook and grace are those of the manifests. Two things are of this harness: a Service is a backend
of HAProxy, and the removal takes `PROPAGATION_S`, longer than clusters usually need.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serving_gateway.contract import DEFAULT_MODEL
from tests.support.gateway_harness import run_gateway
from tests.support.kubelet import Kubelet, run_triton_container
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import (
    LOOPBACK,
    RunningProcess,
    accepts,
    free_port,
    run_process,
    run_redis,
)

PROPAGATION_S: Final = 5.0
"""From a pod's deletion until no new connection goes to it."""
_SLOTS: Final = 12


@dataclass(slots=True)
class Service:
    """A backend of HAProxy whose servers are set while it runs; nothing is tried twice."""

    name: str
    port: int
    socket: Path
    _taken: dict[int, int] = field(default_factory=dict)

    def add(self, port: int) -> None:
        """Send new connections to a port, too."""
        slot = next(n for n in range(1, _SLOTS + 1) if n not in self._taken.values())
        self._taken[port] = slot
        self._tell(f"set server {self.name}/s{slot} addr {LOOPBACK} port {port}")
        self._tell(f"set server {self.name}/s{slot} state ready")

    def remove(self, port: int) -> None:
        """Send no new connection to a port; those that there are go on."""
        self._tell(f"set server {self.name}/s{self._taken.pop(port)} state maint")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self.port}"

    def _tell(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(f"{command}\n".encode())
            answer = client.recv(4096).decode().strip()
        assert not answer or "changed" in answer or "no need" in answer, f"{command}: {answer}"


@contextlib.contextmanager
def run_services(home: Path) -> Iterator[tuple[Service, Service]]:
    """The Services `gateway`, request by request, and `triton`, connection by connection."""
    home.mkdir(parents=True, exist_ok=True)
    command = home / "haproxy.sock"
    services = Service("gateway", free_port(), command), Service("triton", free_port(), command)
    lines = [
        f"global\n  stats socket {command} level admin",
        "defaults\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  retries 0",
    ]
    for service, mode in zip(services, ("http", "tcp"), strict=True):
        lines += [
            f"listen {service.name}\n  mode {mode}\n  bind {LOOPBACK}:{service.port}",
            f"  balance roundrobin\n  server-template s 1-{_SLOTS} {LOOPBACK}:1 disabled",
        ]
    config = home / "haproxy.cfg"
    config.write_text("\n".join([*lines, ""]))
    with run_process(
        ["haproxy", "-db", "-f", str(config)],
        ready=lambda: accepts(services[0].port),
        log=home / "haproxy.log",
    ):
        yield services


@dataclass(slots=True)
class Pod:
    """A container that runs, and where."""

    port: int
    process: RunningProcess
    close: contextlib.ExitStack


@dataclass(slots=True)
class Cluster:
    """Two gateways and a Triton that serves version 1, each behind its Service.

    Attributes:
        pre_stop: whether the hooks run.
        killed: pods that were still there after their grace period.
    """

    home: Path
    gateway: Kubelet
    triton: Kubelet
    gateways: Service
    tritons: Service
    redis_url: str
    repository: Path
    pre_stop: bool = True
    killed: list[str] = field(default_factory=list)
    _gateway_pods: list[Pod] = field(default_factory=list)
    _triton_pods: list[Pod] = field(default_factory=list)
    _going: list[threading.Thread] = field(default_factory=list)
    _count: int = 0

    def replace_gateways(self) -> None:
        """Roll the Deployment `gateway`."""
        for _ in [*self._gateway_pods]:
            self.replace_gateway()

    def replace_gateway(self) -> None:
        """Have a new gateway, and delete the oldest."""
        self.start_gateway()
        self._delete(self._gateway_pods.pop(0), self.gateway, self.gateways)

    def replace_triton(self) -> None:
        """Roll the Deployment `triton`, which has one replica."""
        self.start_triton()
        self._delete(self._triton_pods.pop(0), self.triton, self.tritons)

    def settle(self) -> None:
        """Wait until all deleted pods are gone."""
        for thread in self._going:
            thread.join()
        self._going.clear()

    def start_gateway(self, *, ready: bool = True) -> Pod:
        """A new gateway, in its Service once its probes pass."""
        self._count += 1
        container = self.gateway.here.environ({})
        kept = ("GATEWAY_DRAIN_SECONDS", "GATEWAY_SHUTDOWN_SECONDS")
        env = {**{name: container[name] for name in kept}, "GATEWAY_REDIS_URL": self.redis_url}
        stack = contextlib.ExitStack()
        running = stack.enter_context(
            run_gateway(
                self.home / f"gateway-{self._count}", self.tritons.url, env=env, name="gateway"
            )
        )
        pod = Pod(int(running.url.rpartition(":")[2]), running.process, stack)
        self._gateway_pods.append(pod)
        if not ready:
            running.routed(1)
        self.gateway.wait_ready({"http": pod.port}, {})
        self.gateways.add(pod.port)
        return pod

    def start_triton(self) -> Pod:
        """A new Triton, in its Service once its probes pass."""
        port = free_port()
        stack = contextlib.ExitStack()
        limit = float(self.triton.here.environ({})["TRITON_EXIT_TIMEOUT_SECONDS"])
        running = stack.enter_context(
            run_triton_container(
                self.triton,
                self.repository,
                port=port,
                env={"TRITON_EXIT_TIMEOUT_SECONDS": str(max(1, round(self.triton.pace * limit)))},
            )
        )
        pod = Pod(port, running.process, stack)
        self._triton_pods.append(pod)
        env = {"MODEL_REPOSITORY": str(self.repository), "TRITON_HTTP_PORT": str(port)}
        self.triton.wait_ready({"http": port}, env)
        self.tritons.add(port)
        return pod

    def close(self) -> None:
        """End all that still runs, at once."""
        self.settle()
        for pod in [*self._gateway_pods, *self._triton_pods]:
            pod.process.kill()
            pod.close.close()

    def _delete(self, pod: Pod, kubelet: Kubelet, service: Service) -> None:
        thread = threading.Thread(target=self._terminate, args=(pod, kubelet, service))
        thread.start()
        self._going.append(thread)

    def _terminate(self, pod: Pod, kubelet: Kubelet, service: Service) -> None:
        deleted = time.monotonic()
        removal = threading.Timer(PROPAGATION_S * kubelet.pace, service.remove, [pod.port])
        removal.start()
        if self.pre_stop:
            time.sleep(kubelet.pre_stop_s)
        pod.process.signal(signal.SIGTERM)
        try:
            pod.process.wait(deleted + kubelet.grace_s - time.monotonic())
        except subprocess.TimeoutExpired:
            self.killed.append(f"{kubelet.name} on {pod.port}")
            pod.process.kill()
        removal.join()
        pod.close.close()


@contextlib.contextmanager
def run_cluster(home: Path, *, pace: float = 1.0) -> Iterator[Cluster]:
    """The cluster, with version 1 in production.

    Args:
        home: where everything is kept.
        pace: what the manifests' seconds, and the propagation, are multiplied by.
    """
    repository = home / "repository"
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1)})
    with (
        run_redis(home / "redis") as redis,
        run_services(home / "services") as (gateways, tritons),
    ):
        cluster = Cluster(
            home,
            Kubelet("gateway", home / "of-gateway", pace=pace),
            Kubelet("triton", home / "of-triton", pace=pace),
            gateways,
            tritons,
            redis.url,
            repository,
        )
        try:
            cluster.start_triton()
            cluster.start_gateway(ready=False)
            cluster.start_gateway()
            yield cluster
        finally:
            cluster.close()
