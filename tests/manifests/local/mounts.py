"""The volumes of a pod, in words that podman 4.3 reads; pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tests.manifests.local.variables import Object, UntranslatableError


@dataclass(frozen=True, slots=True)
class Mounted:
    """What one container mounts."""

    mounts: tuple[Object, ...]
    volumes: tuple[Object, ...]
    empty: tuple[Path, ...]
    """Folders of this machine that must be there, empty and writable for all."""


def mounted(
    pod: str,
    container: Object,
    spec: Object,
    *,
    volume_folder: Callable[[str], Path],
    empty_folder: Callable[[str], Path],
) -> Mounted:
    """Translate the mounts of a container.

    Args:
        pod: name of the pod that is played.
        container: as rendered.
        spec: of the rendered pod, with its volumes.
        volume_folder: claim -> folder on this machine.
        empty_folder: `<pod>-<volume>` of an emptyDir -> folder on this machine.

    Raises:
        UntranslatableError: naming the mount that podman cannot have.
    """
    by_name = {volume["name"]: volume for volume in spec.get("volumes", [])}
    claimed = claims(spec)
    mounts: list[Object] = []
    volumes: dict[str, Object] = {}
    empty: list[Path] = []
    for mount in container.get("volumeMounts", []):
        volume = by_name[mount["name"]]
        plain = {key: value for key, value in mount.items() if key != "subPath"}
        if mount["mountPath"] == "/dev/shm":  # a mount, not a file of ours
            continue
        if "subPath" in mount and mount["name"] in claimed:
            plain["name"] = f"{mount['name']}-{len(volumes)}"
            folder = volume_folder(claimed[mount["name"]]) / mount["subPath"]
            volume = _host_path(plain["name"], folder)
        elif "emptyDir" in volume:
            empty.append(empty_folder(f"{pod}-{mount['name']}"))
            volume = _host_path(mount["name"], empty[-1])
        elif "subPath" in mount:
            plain["mountPath"] = _folder_of_file(pod, mount, volume)
        mounts.append(plain)
        volumes[volume["name"]] = volume
    return Mounted(tuple(mounts), tuple(volumes.values()), tuple(empty))


def claims(spec: Object) -> dict[str, str]:
    """Name of the volume in the pod -> name of the claim."""
    return {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in spec.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }


def config_maps_mounted(spec: Object) -> set[str]:
    """Names of the ConfigMaps that the pod's volumes hold."""
    return {v["configMap"]["name"] for v in spec.get("volumes", []) if "configMap" in v}


def _host_path(name: str, path: Path) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": str(path), "type": "Directory"}}


def _folder_of_file(pod: str, mount: Object, volume: Object) -> str:
    path = PurePosixPath(mount["mountPath"])
    if "configMap" not in volume or path.name != mount["subPath"]:
        raise UntranslatableError(f"{pod} mounts {mount['subPath']} of a volume at {path}")
    return str(path.parent)
