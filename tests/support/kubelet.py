"""What a kubelet does with a container of the rendered manifests, on processes of this machine.

Commands, paths, periods and grace come from the manifests; only addresses are of this machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from platform_assets.local_stack.triton_server import remove_stale_shared_memory
from tests.manifests.commands import CONTROL_KEY, Runnable, runnable, triton_image
from tests.manifests.rendering import Object, load, rendered
from tests.support.servers import (
    LOOPBACK,
    NO_ROOTS,
    RunningTriton,
    ServerError,
    free_port,
    run_process,
)

PROBES = ("startup", "readiness", "liveness")


@dataclass(slots=True)
class Kubelet:
    """The container of a Deployment.

    Args:
        name: of the Deployment.
        home: where its mounted files are put.
        pace: what the manifests' seconds are multiplied by.
    """

    name: str
    home: Path
    pace: float = 1.0
    here: Runnable = field(init=False)
    pod: Object = field(init=False)

    def __post_init__(self) -> None:
        """Read the manifests and write the mounted files."""
        manifests = load(rendered("overlays/production"))
        reference = f"Deployment/{self.name}"
        self.pod = manifests.get(reference)["spec"]["template"]["spec"]
        self.here = runnable(manifests, reference, self.home)

    @property
    def pre_stop_s(self) -> float:
        """How long the preStop hook sleeps."""
        command = self.here.container["lifecycle"]["preStop"]["exec"]["command"]
        assert Path(command[0]).name == "sleep"
        return self.pace * float(command[1])

    @property
    def grace_s(self) -> float:
        """From the deletion, the hook included, until SIGKILL."""
        return self.pace * float(self.pod["terminationGracePeriodSeconds"])

    def probe(self, which: str, ports: Mapping[str, int], changes: Mapping[str, str]) -> bool:
        """What one probe says now.

        Args:
            which: one of PROBES.
            ports: where the container's ports are on this machine.
            changes: of the container's variables.
        """
        asked = self.here.container[f"{which}Probe"]
        limit = float(asked.get("timeoutSeconds", 1))
        if "httpGet" in asked:
            port = ports[asked["httpGet"]["port"]]
            url = f"http://{LOOPBACK}:{port}{asked['httpGet']['path']}"
            try:
                answer = httpx.get(url, timeout=limit, trust_env=False, verify=NO_ROOTS)
            except httpx.HTTPError:
                return False
            return 200 <= answer.status_code < 400
        environ = self.here.environ(changes)
        try:
            done = subprocess.run(
                self.here.probe(which), env=environ, timeout=limit, capture_output=True, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def wait_ready(self, ports: Mapping[str, int], changes: Mapping[str, str]) -> None:
        """Probe as a kubelet does, from the start of the container until it is ready."""
        for which in ("startup", "readiness"):
            asked: Any = self.here.container[f"{which}Probe"]
            for _ in range(asked["failureThreshold"] if which == "startup" else 60):
                if self.probe(which, ports, changes):
                    break
                time.sleep(self.pace * asked["periodSeconds"])
            else:
                raise ServerError(f"the {which} probe of {self.name} never passed")


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
    http, grpc, metrics = port or free_port(), free_port(), free_port()
    image = kubelet.home / f"image-{grpc}"
    image.mkdir(parents=True)
    changes = {
        **triton_image(image),
        "MODEL_REPOSITORY": str(repository),
        "TRITON_HTTP_PORT": str(http),
        "TRITON_GRPC_PORT": str(grpc),
        "TRITON_METRICS_PORT": str(metrics),
        **(env or {}),
    }
    with contextlib.ExitStack() as stack:
        # A server that was killed leaves its regions.
        stack.callback(remove_stale_shared_memory, image)
        process = stack.enter_context(
            run_process(
                kubelet.here.argv(),
                ready=ready,
                log=image / "triton.log",
                env=kubelet.here.environ(changes),
                grace_s=1,
            )
        )
        yield RunningTriton(
            http_url=f"http://{LOOPBACK}:{http}",
            grpc_url=f"{LOOPBACK}:{grpc}",
            metrics_url=f"http://{LOOPBACK}:{metrics}/metrics",
            control_key=CONTROL_KEY,
            repository=repository,
            state_dir=image,
            process=process,
        )
