"""podman with a storage, a network and settings of its own, so that it touches nobody else's."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

USER: Final = 10001
"""User and group of every container."""

NETWORK: Final = "readygate"

_SETTINGS: Final = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""


class PodmanError(Exception):
    """podman, or a container, did not do what was asked; the message says what."""


class Podman:
    """The command line of podman, as root, on the storage below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        # podman takes no long path for what lives as long as containers run.
        known = hashlib.sha256(str(self._folder).encode()).hexdigest()[:12]
        self._running = Path("/run") / f"{NETWORK}-{known}"
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = self._folder / "containers.conf"
        settings.write_text(_SETTINGS)
        self._environ = {**os.environ, "CONTAINERS_CONF": str(settings)}
        self._program = (
            "podman",
            *("--root", str(self._folder / "storage")),
            *("--runroot", str(self._running)),
            *("--network-config-dir", str(self._folder / "networks")),
        )

    def __call__(self, *arguments: str, given: bytes | None = None, timeout_s: float = 120) -> str:
        """Run `podman ARGUMENTS...` with `given` on its standard input; return what it printed.

        Raises:
            PodmanError: it failed, or took longer than `timeout_s` seconds.
        """
        said = " ".join(("podman", *arguments[:3]))
        try:
            done = subprocess.run(
                [*self._program, *arguments],
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                capture_output=True,
                env=self._environ,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError as error:
            raise PodmanError("there is no podman on this machine: install it") from error
        except subprocess.TimeoutExpired as error:
            raise PodmanError(f"{said} did not end within {timeout_s:.0f} s") from error
        if done.returncode != 0:
            lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
            raise PodmanError(f"{said} failed:\n" + "\n".join(lines[-15:]))
        return done.stdout.decode(errors="replace").strip()

    def succeeds(self, *arguments: str, timeout_s: float = 60) -> bool:
        """Whether `podman ARGUMENTS...` ends with 0."""
        try:
            self(*arguments, timeout_s=timeout_s)
        except PodmanError:
            return False
        return True

    def inspect(self, container: str) -> dict[str, Any]:
        """What podman knows of a container."""
        found: list[dict[str, Any]] = json.loads(self("container", "inspect", container))
        return found[0]

    def make_network(self) -> None:
        """Make the network whose name server knows the Services, unless it is there."""
        if not self.succeeds("network", "exists", NETWORK):
            self("network", "create", NETWORK)

    def make_volume(self, name: str) -> None:
        """Make an empty volume that belongs to the containers' user (as fsGroup would have it)."""
        if not self.succeeds("volume", "exists", name):
            self("volume", "create", "--opt", f"o=uid={USER},gid={USER}", name)

    def volume_folder(self, name: str) -> Path:
        """Where the files of a volume are on this machine."""
        return self._folder / "storage" / "volumes" / name / "_data"

    def empty_folder(self, name: str) -> Path:
        """Where an emptyDir of that name is on this machine."""
        return self._folder / "empty" / name

    def make_empty(self, folder: Path) -> None:
        """Make an empty folder that every user may write, as the kubelet makes an emptyDir."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o1777)

    def make_secret(self, name: str, values: Mapping[str, str]) -> None:
        """Make a secret that a secretKeyRef finds; podman 4.3 reads its keys as base64."""
        content = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        if self.succeeds("secret", "inspect", name):
            self("secret", "rm", name)
        self("secret", "create", name, "-", given=json.dumps(content).encode())

    def play(self, objects: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """Start the objects of one workload, known on the network by `names` too."""
        aliases = ",".join(f"alias={name}" for name in names)
        network = f"{NETWORK}:{aliases}" if aliases else NETWORK
        # JSON is YAML; podman splits documents at the dashes.
        documents = "\n---\n".join(json.dumps(item) for item in objects)
        self("kube", "play", "--network", network, "-", given=documents.encode())

    def address(self, pod: str) -> str:
        """IP address of a pod, which this machine reaches directly."""
        found = json.loads(self("pod", "inspect", pod))
        infra = self.inspect(found["InfraContainerID"])
        return str(infra["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])

    def logs(self, container: str, lines: int = 15) -> str:
        """The end of what a container printed, on both of its outputs."""
        done = subprocess.run(
            [*self._program, "logs", "--tail", str(lines), container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environ,
            timeout=60,
            check=False,
        )
        return done.stdout.decode(errors="replace").strip()

    def clean(self) -> None:
        """Remove pods, volumes, secrets and the network; the images stay for the next time."""
        self("pod", "rm", "--all", "--force", "--time", "2")
        self("volume", "rm", "--all", "--force")
        self("secret", "rm", "--all")
        if self.succeeds("network", "exists", NETWORK):
            self("network", "rm", "--force", NETWORK)
        shutil.rmtree(self._folder / "empty", ignore_errors=True)

    def reset(self) -> None:
        """Remove everything, the images too."""
        self.clean()
        self("rmi", "--all", "--force")
        shutil.rmtree(self._running, ignore_errors=True)
