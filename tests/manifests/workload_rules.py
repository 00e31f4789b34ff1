"""Rules about one pod template at a time: each yields what is wrong, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from tests.manifests.rendering import Manifests, Object, Pod

USER: Final = 10001
PROBES: Final = {
    "gateway": {"startup": "/health", "readiness": "/ready", "liveness": "/health"},
    "triton": {"startup": "probe.sh", "readiness": "probe.sh", "liveness": "/v2/health/live"},
    "mlflow": {"startup": "/health", "readiness": "/health", "liveness": "/health"},
    "redis": {"startup": "redis-cli ping", "readiness": "redis-cli ping", "liveness": "redis"},
    "postgres": {"startup": "pg_isready", "readiness": "pg_isready", "liveness": "postgres"},
    "dagster-webserver": dict.fromkeys(("startup", "readiness", "liveness"), "/server_info"),
    "dagster-code": dict.fromkeys(("startup", "readiness", "liveness"), "DagsterApi"),
    # Nobody sends it requests, so nothing asks whether it is ready for them.
    "dagster-daemon": dict.fromkeys(("startup", "liveness"), "liveness-check"),
}
"""What each probe must ask: a path, a word of its command, a port, a service of gRPC."""
STOPPING: Final = {"gateway": "GATEWAY_SHUTDOWN_SECONDS", "triton": "TRITON_EXIT_TIMEOUT_SECONDS"}
"""How long a server finishes what is in flight after SIGTERM, by its own setting."""
SPARE_S: Final = 5
_UNITS: Final = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(2 ** (10 * n)) for n, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}
_HOST: Final = frozenset({"hostNetwork", "hostPID", "hostIPC"})
_CONFINED: Final = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
_VOLUMES: Final = frozenset({"emptyDir", "configMap", "persistentVolumeClaim"})


def restricted(manifests: Manifests) -> Iterator[str]:
    """What Kubernetes calls restricted, and beyond it: no token, volume or host without need."""
    for pod in manifests.pods():
        context = pod.spec.get("securityContext", {})
        wanted = {
            **{"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for key, value in wanted.items():
            if context.get(key) != value:
                yield f"{pod.owner}: securityContext.{key} is {context.get(key)}, not {value}"
        # Dagster's launcher looks for a token wherever its instance is opened, or does not start.
        token = "dagster-instance" in _config_maps(pod)
        if pod.spec.get("automountServiceAccountToken") is not token:
            yield f"{pod.owner}: automountServiceAccountToken must be {token}"
        if pod.spec.get("enableServiceLinks") is not False:
            # A Service called gateway would set GATEWAY_PORT to an address in every pod.
            yield f"{pod.owner}: enableServiceLinks must be false"
        for key in _HOST & pod.spec.keys():
            yield f"{pod.owner}: {key} opens the node to the pod"
        for volume in pod.spec.get("volumes", []):
            if not _VOLUMES & volume.keys():
                yield f"{pod.owner}: volume {volume['name']} is of another kind than {_VOLUMES}"
        for container in pod.all_containers:
            yield from _restricted_container(f"{pod.owner}[{container['name']}]", container)


def _config_maps(pod: Pod) -> set[str]:
    volumes = pod.spec.get("volumes", [])
    return {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}


def _restricted_container(where: str, container: Object) -> Iterator[str]:
    context = container.get("securityContext")
    if context != _CONFINED:
        yield f"{where}: securityContext is {context}, not {_CONFINED}"
    for port in container.get("ports", []):
        if "hostPort" in port:
            yield f"{where}: port {port['containerPort']} is opened on the node"


def quantity(text: Any) -> Fraction:
    """A Kubernetes quantity as a number, as `500m` and `4Gi`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(\w*)", str(text))
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no quantity")
    return Fraction(found[1]) * _UNITS[found[2]]


def resourced(manifests: Manifests) -> Iterator[str]:
    """Every container says what it needs and what it may take at most, which is not less."""
    for pod in manifests.pods():
        for container in pod.all_containers:
            where = f"{pod.owner}[{container['name']}]"
            given = container.get("resources", {})
            requests, limits = given.get("requests", {}), given.get("limits", {})
            for what in ("cpu", "memory"):
                if what not in requests or what not in limits:
                    yield f"{where}: no request or no limit of {what}"
                elif quantity(requests[what]) > quantity(limits[what]):
                    yield f"{where}: requests {requests[what]} of {what}, limit {limits[what]}"


def pinned(manifests: Manifests) -> Iterator[str]:
    """An image has a tag that stays or a whole digest; runs take that of the code location."""
    for pod in manifests.pods():
        for container in pod.all_containers:
            image = container["image"]
            name, digest, sha = image.partition("@sha256:")
            _, _, tag = name.rpartition("/")[2].partition(":")
            if not digest and tag in {"", "latest"}:
                yield f"{pod.owner}: {image} is another image tomorrow"
            if digest and not re.fullmatch(r"[0-9a-f]{64}", sha):
                yield f"{pod.owner}: {image} has no whole digest"
            current = manifests.environment(container).get("DAGSTER_CURRENT_IMAGE", image)
            if current != image:
                yield f"{pod.owner}: DAGSTER_CURRENT_IMAGE {current} is not its image {image}"


def probed(manifests: Manifests) -> Iterator[str]:
    """Every server has its probes, and each asks what tells the truth."""
    for pod in manifests.pods("Deployment", "StatefulSet"):
        container = pod.containers[0]
        wanted = PROBES.get(pod.name, {})
        if not wanted:
            yield f"{pod.owner}: nothing is known of the probes of {pod.name}"
        for kind in ("startup", "readiness", "liveness"):
            probe = container.get(f"{kind}Probe")
            if (probe is None) != (kind not in wanted):
                yield f"{pod.owner}: {kind} probe missing, or there where none is wanted"
            elif probe is not None and wanted[kind] not in _asked(probe):
                yield f"{pod.owner}: {kind} probe asks {_asked(probe)!r}, not {wanted[kind]}"
            elif probe is not None and _port(probe) not in {None, *pod.ports, *pod.ports.values()}:
                yield f"{pod.owner}: {kind} probe names port {_port(probe)}, which is not there"


def _asked(probe: Object) -> str:
    if "exec" in probe:
        return " ".join(probe["exec"]["command"])
    return str(
        probe.get("httpGet", {}).get("path")
        or probe.get("grpc", {}).get("service")
        or probe.get("tcpSocket", {}).get("port")
    )


def _port(probe: Object) -> str | int | None:
    found = [probe[kind]["port"] for kind in ("httpGet", "grpc", "tcpSocket") if kind in probe]
    return found[0] if found else None


def graceful(manifests: Manifests) -> Iterator[str]:
    """The pause before SIGTERM, and what the server needs after it, fit into the grace period."""
    for pod in manifests.pods("Deployment"):
        env = manifests.environment(pod.containers[0])
        pause = pause_s(pod)
        grace = pod.spec.get("terminationGracePeriodSeconds", 30)
        if pod.ports and pause < 5:
            yield f"{pod.owner}: preStop waits {pause} s: clients would meet a closed port"
        stopping = STOPPING.get(pod.name)
        needed = pause + int(env.get(stopping) or 0 if stopping else 10) + SPARE_S
        if stopping and not env.get(stopping):
            yield f"{pod.owner}: {stopping} is not set, so the grace period rests on a default"
        if grace < needed:
            yield f"{pod.owner}: grace period {grace} s, but {needed} s are needed"
        if float(env.get("GATEWAY_DRAIN_SECONDS") or 0):
            yield f"{pod.owner}: the preStop hook is the pause; GATEWAY_DRAIN_SECONDS adds another"


def pause_s(pod: Pod) -> int:
    """Seconds that the preStop hook sleeps; 0 without one."""
    hook = pod.containers[0].get("lifecycle", {}).get("preStop", {})
    command = hook.get("exec", {}).get("command", ["", "0"])
    return int(command[1]) if command[0] in {"sleep", "/bin/sleep"} else 0
