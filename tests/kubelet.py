"""What a kubelet does with a container of the rendered manifests, on processes of this machine.

Commands, paths, periods and grace come from the manifests; only addresses are of this machine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from platform_assets.local_stack.triton_package import locate_package, prepare_backends
from platform_assets.local_stack.triton_server import triton_environment
from tests.manifests.rendering import Manifests, Object, load, rendered
from tests.servers import (
    LOOPBACK,
    TRITON_ENV,
    RunningTriton,
    ServerError,
    free_port,
    run_process,
)

PROBES = ("startup", "readiness", "liveness")
_KEY = "a-key-of-the-tests-alone"


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The first container of a Deployment, with its ConfigMaps' files as they would be mounted.

    Args:
        name: of the Deployment.
        home: where the files are put.
        overlay: which rendering.
        pace: what the manifests' seconds are multiplied by.
    """

    name: str
    home: Path
    overlay: str = "production"
    pace: float = 1.0
    manifests: Manifests = field(init=False)
    pod: Object = field(init=False)

    def __post_init__(self) -> None:
        """Read the manifests and write the mounted files."""
        manifests = load(rendered(f"overlays/{self.overlay}"))
        pod = manifests.get(f"Deployment/{self.name}")["spec"]["template"]["spec"]
        object.__setattr__(self, "manifests", manifests)
        object.__setattr__(self, "pod", pod)
        volumes = {one["name"]: one for one in pod["volumes"]}
        for mount in self.container["volumeMounts"]:
            source = volumes[mount["name"]].get("configMap")
            if source is not None:
                folder = self.home / mount["mountPath"].lstrip("/")
                folder.mkdir(parents=True, exist_ok=True)
                for file, text in manifests.get(f"ConfigMap/{source['name']}")["data"].items():
                    (folder / file).write_text(text)

    @property
    def container(self) -> Object:
        """The container itself."""
        found: Object = self.pod["containers"][0]
        return found

    @property
    def command(self) -> list[str]:
        """What the container runs."""
        return [self._here(word) for word in self.container["command"]]

    @property
    def pre_stop_s(self) -> float:
        """How long the preStop hook sleeps."""
        command = self.container["lifecycle"]["preStop"]["exec"]["command"]
        assert Path(command[0]).name == "sleep"
        return self.pace * float(command[1])

    def container_seconds(self, variable: str) -> float:
        """A variable of the container that holds seconds."""
        return self.pace * float(self.manifests.environment(self.container)[variable] or 0)

    @property
    def grace_s(self) -> float:
        """From the deletion, the hook included, until SIGKILL."""
        return self.pace * float(self.pod["terminationGracePeriodSeconds"])

    def probe(self, which: str, ports: Mapping[str, int], env: Mapping[str, str]) -> bool:
        """What one probe says now.

        Args:
            which: one of PROBES.
            ports: where the container's ports are on this machine.
            env: variables of the container that say where things are.
        """
        asked = self.container[f"{which}Probe"]
        limit = float(asked.get("timeoutSeconds", 1))
        if "httpGet" in asked:
            port = ports[asked["httpGet"]["port"]]
            url = f"http://{LOOPBACK}:{port}{asked['httpGet']['path']}"
            try:
                status = httpx.get(url, timeout=limit, trust_env=False).status_code
            except httpx.HTTPError:
                return False
            return 200 <= status < 400
        command = [self._here(word) for word in asked["exec"]["command"]]
        try:
            done = subprocess.run(
                command, env={**os.environ, **env}, timeout=limit, capture_output=True, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def wait_ready(self, ports: Mapping[str, int], env: Mapping[str, str]) -> None:
        """Probe as a kubelet does, from the start of the container until it is ready."""
        for which in ("startup", "readiness"):
            asked: Any = self.container[f"{which}Probe"]
            for _ in range(asked["failureThreshold"] if which == "startup" else 60):
                if self.probe(which, ports, env):
                    break
                time.sleep(self.pace * asked["periodSeconds"])
            else:
                raise ServerError(f"the {which} probe of {self.name} never passed")

    def _here(self, word: str) -> str:
        """A path of the container on this machine, where a ConfigMap was mounted there."""
        mounted = self.home / word.lstrip("/")
        return str(mounted) if word.startswith("/") and mounted.exists() else word


_TRITONSERVER = """#!/bin/bash
# Stands for the program of the image: finds its libraries and backends on this machine.
export LD_LIBRARY_PATH={libraries} PATH={path} VIRTUAL_ENV={env} PYTHONNOUSERSITE=1
exec {binary} "${{@/0.0.0.0/127.0.0.1}}" --backend-directory={backends}
"""


def install_tritonserver(home: Path) -> Path:
    """A folder whose `tritonserver` is the real one; it goes in front of the PATH."""
    package = locate_package(TRITON_ENV)
    environ = triton_environment(package, TRITON_ENV, os.environ)
    script = home / "bin" / "tritonserver"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(
        _TRITONSERVER.format(
            libraries=environ["LD_LIBRARY_PATH"],
            path=environ["PATH"],
            env=TRITON_ENV,
            binary=package.binary,
            backends=prepare_backends(package, home),
        )
    )
    script.chmod(0o755)
    return script.parent


@contextlib.contextmanager
def run_triton_container(
    kubelet: Kubelet,
    repository: Path,
    *,
    port: int | None = None,
    ready: Callable[[], bool] = lambda: True,
    env: Mapping[str, str] | None = None,
) -> Iterator[RunningTriton]:
    """Run the command of Triton's Deployment, on the real Triton; not awaited by default.

    Args:
        kubelet: of the Deployment `triton`.
        repository: the model repository.
        port: of HTTP; a free one by default.
        ready: what is waited for.
        env: added to the container's own variables.
    """
    home = kubelet.home
    http, grpc, metrics = port or free_port(), free_port(), free_port()
    bin_folder = home / "bin" if (home / "bin").exists() else install_tritonserver(home)
    own = kubelet.manifests.environment(kubelet.container)
    environ = {
        **{name: value for name, value in own.items() if value is not None},
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "MODEL_REPOSITORY": str(repository),
        "TRITON_CONTROL_KEY": _KEY,
        "TRITON_HTTP_PORT": str(http),
        "TRITON_GRPC_PORT": str(grpc),
        "TRITON_METRICS_PORT": str(metrics),
        **(env or {}),
    }
    with run_process(
        kubelet.command,
        ready=ready,
        log=home / "logs" / f"triton-{http}.log",
        env=environ,
        grace_s=1,
    ) as process:
        yield RunningTriton(
            http_url=f"http://{LOOPBACK}:{http}",
            grpc_url=f"{LOOPBACK}:{grpc}",
            metrics_url=f"http://{LOOPBACK}:{metrics}/metrics",
            control_key=_KEY,
            repository=repository,
            state_dir=home,
            process=process,
        )
