"""Ask a container's probe, as the kubelet of a cluster would."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from platform_assets.local_stack.http import answers_ok
from tests.manifests.local.podman import Podman


def passes(podman: Podman, probe: Mapping[str, Any], *, pod: str, container: str) -> bool:
    """Whether the probe of a rendered container passes at this moment.

    Args:
        podman: where it runs.
        probe: a `startupProbe` or `readinessProbe`, its ports as numbers.
        pod: name of the pod, whose address HTTP, TCP and gRPC are asked at.
        container: name by which podman has the container, for probes by exec.
    """
    timeout_s = float(probe.get("timeoutSeconds", 1))
    if "exec" in probe:
        command = probe["exec"]["command"]
        return podman.succeeds("exec", container, *command, timeout_s=timeout_s)
    address = podman.address(pod)
    if "httpGet" in probe:
        asked = probe["httpGet"]
        return answers_ok(f"http://{address}:{asked['port']}{asked['path']}", timeout_s)
    if "grpc" in probe:
        asked = probe["grpc"]
        return _serving(f"{address}:{asked['port']}", asked.get("service", ""), timeout_s)
    with socket.socket() as connection:
        connection.settimeout(timeout_s)
        return connection.connect_ex((address, probe["tcpSocket"]["port"])) == 0


def with_port_numbers(container: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return a probe of `container` with the name of its port resolved; None when it has none."""
    probe = container.get(name)
    if probe is None:
        return None
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    resolved = dict(probe)
    for kind in ("httpGet", "tcpSocket", "grpc"):
        if kind in probe:
            port = probe[kind]["port"]
            resolved[kind] = {**probe[kind], "port": ports.get(port, port)}
    return resolved


def _serving(address: str, service: str, timeout_s: float) -> bool:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
