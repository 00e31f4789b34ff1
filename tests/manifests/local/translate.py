"""What podman 4.3 can play of rendered manifests, said in words that it reads; pure.

A Deployment or StatefulSet becomes one Pod. podman does not know, and this puts right:

- init containers that end (its restart policy starts them again): Pods of their own, played first;
- Services: names of the pod on a network with a name server, on the ports of the pod;
- which variable overrides which, and `$(NAME)` in values and commands: worked out here;
- `subPath`: the folder of the volume, or the folder around the one file of a ConfigMap;
- memory at /dev/shm: podman brings its own;
- an emptyDir, which it shares among pods and gives to the image's user: a folder of this machine;
- probes and hooks: taken out. Who plays asks the probes.

Not played: what needs a cluster to mean anything (quotas of availability, network policies, roles,
service accounts, autoscalers) and the Jobs that a GitOps tool runs around a sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.manifests.local.mounts import claims, config_maps_mounted, mounted
from tests.manifests.local.variables import (
    Object,
    UntranslatableError,
    config_maps_read,
    expanded,
    variables,
)

_WORKLOADS: Final = frozenset({"Deployment", "StatefulSet"})
_LEFT_OUT: Final = frozenset(
    {
        *("Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "Job", "Ingress"),
        *("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    }
)
_READ: Final = _WORKLOADS | {"Service", "ConfigMap", "PersistentVolumeClaim"}
_WAVE: Final = "argocd.argoproj.io/sync-wave"
_TAKEN_OUT: Final = frozenset(
    {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "envFrom"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One workload, ready to be played."""

    name: str
    """Of the workload, and of its pod."""
    wave: int
    """The sync wave: lower ones are up before higher ones start."""
    aliases: tuple[str, ...]
    """Names of the Services that lead to the pod."""
    volumes: tuple[str, ...]
    """Claims that it mounts."""
    empty: tuple[Path, ...]
    """Folders of this machine that must be there, empty and writable for all."""
    before: tuple[Object, ...]
    """Pods to play to their end, in this order, before the workload's own."""
    pod: Object
    config: tuple[Object, ...]
    """ConfigMaps that the pods mount or read."""
    container: Object
    """The container as rendered, with its probes."""

    @property
    def container_name(self) -> str:
        """Name that podman gives the container."""
        return f"{self.name}-{self.container['name']}"


def plays(
    objects: Sequence[Object],
    *,
    secrets: Mapping[str, Mapping[str, str]],
    image: Callable[[str], str],
    volume_folder: Callable[[str], Path],
    empty_folder: Callable[[str], Path],
) -> list[Play]:
    """Translate rendered objects; the plays come in the order of their waves.

    Args:
        objects: all objects of an overlay.
        secrets: values of each secret by key, for values that are put together of them.
        image: image of a manifest -> the name under which podman has it.
        volume_folder: claim -> folder on this machine.
        empty_folder: `<pod>-<volume>` of an emptyDir -> folder on this machine.

    Raises:
        UntranslatableError: naming the object and what podman cannot play.
    """
    for item in objects:
        if item["kind"] not in _READ | _LEFT_OUT:
            raise UntranslatableError(
                f"{item['kind']} {item['metadata']['name']}: it is not known how to play that"
            )
    config = {item["metadata"]["name"]: item for item in objects if item["kind"] == "ConfigMap"}
    services = [item for item in objects if item["kind"] == "Service"]
    translated = [
        _play(
            item,
            services,
            _Surroundings(
                secrets=secrets,
                image=image,
                folder=volume_folder,
                empty=empty_folder,
                config=config,
            ),
        )
        for item in objects
        if item["kind"] in _WORKLOADS
    ]
    return sorted(translated, key=lambda play: (play.wave, play.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    secrets: Mapping[str, Mapping[str, str]]
    image: Callable[[str], str]
    folder: Callable[[str], Path]
    empty: Callable[[str], Path]
    config: Mapping[str, Object]


def _play(
    workload: Object,
    services: Sequence[Object],
    around: _Surroundings,
) -> Play:
    name = workload["metadata"]["name"]
    template = workload["spec"]["template"]
    spec = template["spec"]
    containers = spec["containers"]
    if len(containers) != 1:
        raise UntranslatableError(f"{name} has {len(containers)} containers; one can be played")
    labels = template["metadata"].get("labels", {})
    firsts = spec.get("initContainers", [])
    used = sorted(config_maps_mounted(spec) | config_maps_read([*firsts, *containers]))
    missing = [item for item in used if item not in around.config]
    if missing:
        raise UntranslatableError(f"{name} reads ConfigMaps that nobody made: {missing}")
    empty: list[Path] = []
    before = tuple(
        _pod(f"{name}-{first['name']}", template, first, "Never", around, empty) for first in firsts
    )
    pod = _pod(name, template, containers[0], "Always", around, empty)
    return Play(
        name=name,
        wave=int(workload["metadata"].get("annotations", {}).get(_WAVE, "0")),
        aliases=tuple(_aliases(name, labels, containers[0], services)),
        volumes=tuple(sorted(claims(spec).values())),
        before=before,
        pod=pod,
        empty=tuple(empty),
        config=tuple(around.config[item] for item in used),
        container=containers[0],
    )


def _aliases(
    name: str, labels: Mapping[str, str], container: Object, services: Sequence[Object]
) -> Iterator[str]:
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for service in services:
        selector = service["spec"].get("selector", {})
        if not selector or any(labels.get(key) != value for key, value in selector.items()):
            continue
        service_name = service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if ports.get(target, target) != port["port"]:
                raise UntranslatableError(
                    f"Service {service_name} moves port {port['port']} to {target} of {name}: "
                    "without a cluster a name leads to the pod's own ports"
                )
        if service_name != name:
            yield service_name


def _pod(
    name: str,
    template: Object,
    container: Object,
    restart: str,
    around: _Surroundings,
    empty: list[Path],
) -> Object:
    """Return a Pod of the one container; add the empty folders that it wants to `empty`."""
    spec = template["spec"]
    played = {key: value for key, value in container.items() if key not in _TAKEN_OUT}
    played["image"] = around.image(container["image"])
    played["imagePullPolicy"] = "Never"
    played["env"], known = variables(container, secrets=around.secrets, config=around.config)
    for part in ("command", "args"):
        if part in played:
            played[part] = [expanded(word, known) for word in played[part]]
    volumes = mounted(name, container, spec, volume_folder=around.folder, empty_folder=around.empty)
    empty += volumes.empty
    played["volumeMounts"] = volumes.mounts
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": template["metadata"].get("labels", {})},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 30),
            "securityContext": spec.get("securityContext", {}),
            "containers": [played],
            "volumes": volumes.volumes,
        },
    }
