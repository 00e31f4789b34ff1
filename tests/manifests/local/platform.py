"""The platform as pods of one machine: started in waves, asked by their probes, taken down."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from platform_assets.ledger.keys import new_private_key
from tests.manifests.local.images import Progress, ensure_base, ensure_image
from tests.manifests.local.podman import Podman, PodmanError
from tests.manifests.local.probes import passes, with_port_numbers
from tests.manifests.local.security import faults
from tests.manifests.local.translate import Play, plays
from tests.manifests.rendering import Object, load, rendered

_POLL_S: Final = 0.5
_HOPELESS_AFTER_RESTARTS: Final = 5
_INIT_DEADLINE_S: Final = 120.0


def new_secrets() -> dict[str, dict[str, str]]:
    """Return values for every secret that the manifests read; good for one play."""
    password, token = secrets.token_hex(24), secrets.token_hex(32)
    return {
        "triton-control": {"key": secrets.token_hex(32)},
        "gateway-control": {
            "token": token,
            "tokens": f"dagster:{token},operator:{secrets.token_hex(32)}",
        },
        "postgres-credentials": {"username": "platform", "password": secrets.token_hex(24)},
        "redis-credentials": {
            "url": f"redis://:{password}@redis:6379/0",
            "password": password,
        },
        "ledger-key": {"pem": new_private_key()},
        "prediction-log": {"key": secrets.token_hex(32)},
    }


class PlayedPlatform:
    """The pods of the rendered overlay, on a podman of their own."""

    def __init__(self, podman: Podman, progress: Progress) -> None:
        self._podman = podman
        self._progress = progress
        self._plays: list[Play] = []
        self.secrets = new_secrets()

    def prepare(self, objects: Sequence[Object]) -> None:
        """Have every image that the objects name, and translate them.

        Raises:
            PodmanError: an image cannot be had.
            UntranslatableError: podman could not play an object.
        """
        ensure_base(self._podman, self._progress)
        names: dict[str, str] = {}

        def image(asked: str) -> str:
            if asked not in names:
                names[asked] = ensure_image(self._podman, asked, self._progress)
            return names[asked]

        self._plays = plays(
            objects,
            secrets=self.secrets,
            image=image,
            volume_folder=self._podman.volume_folder,
            empty_folder=self._podman.empty_folder,
        )

    def start(self) -> None:
        """Play wave after wave; each pod's startup probe has passed when this returns.

        Raises:
            PodmanError: a pod did not come up; with the end of its log.
        """
        self._podman.clean()
        self._podman.make_network()
        for name, values in self.secrets.items():
            self._podman.make_secret(name, values)
        for volume in {volume for play in self._plays for volume in play.volumes}:
            self._podman.make_volume(volume)
        for wave in sorted({play.wave for play in self._plays}):
            together = [play for play in self._plays if play.wave == wave]
            for play in together:
                self._start(play)
            for play in together:
                self.wait_for(play.name, "startupProbe")

    def _start(self, play: Play) -> None:
        for folder in play.empty:
            self._podman.make_empty(folder)
        for before in play.before:
            name = before["metadata"]["name"]
            self._podman.play([*play.config, before], ())
            container = f"{name}-{before['spec']['containers'][0]['name']}"
            code = self._podman("wait", container, timeout_s=_INIT_DEADLINE_S)
            if code != "0":
                raise PodmanError(f"{name} ended with {code}:\n{self._podman.logs(container)}")
            self._podman("pod", "rm", "--force", name)
        self._podman.play([*play.config, play.pod], play.aliases)

    def wait_for(self, name: str, probe: str, deadline_s: float = 180.0) -> float:
        """Wait until a probe of a workload passes; return the seconds that it took.

        Raises:
            PodmanError: not within `deadline_s` seconds; with the end of the log.
        """
        play = self._play(name)
        asked = with_port_numbers(play.container, probe)
        began = time.monotonic()
        if asked is not None:
            self.until(
                lambda: passes(self._podman, asked, pod=name, container=play.container_name),
                deadline_s,
                f"the {probe} of {name} passes",
                name,
            )
        took = time.monotonic() - began
        self._progress(name, f"{probe} passed after {took:.1f} s")
        return took

    def until(self, holds: Callable[[], bool], deadline_s: float, what: str, name: str) -> None:
        """Wait until `holds`.

        Raises:
            PodmanError: not within `deadline_s` seconds, or the workload `name` ends each time that
                it is started; with the end of its log.
        """
        container = self._play(name).container_name
        deadline = time.monotonic() + deadline_s
        while not holds():
            restarts = self._podman.inspect(container)["RestartCount"]
            if restarts >= _HOPELESS_AFTER_RESTARTS or time.monotonic() > deadline:
                raise PodmanError(
                    f"not within {deadline_s:.0f} s and {restarts} restarts of {name}: {what}. "
                    f"The end of its log:\n{self._podman.logs(container)}"
                )
            time.sleep(_POLL_S)

    def ready(self, deadline_s: float) -> None:
        """Wait until the readiness probe of every workload passes."""
        for play in self._plays:
            self.wait_for(play.name, "readinessProbe", deadline_s)

    def url(self, name: str) -> str:
        """HTTP address of a workload, as this machine reaches it."""
        port = self._play(name).container["ports"][0]["containerPort"]
        return f"http://{self._podman.address(name)}:{port}"

    def process_of(self, name: str) -> int:
        """Process id, on this machine, of a workload's container; 0 while it does not run."""
        return int(self._podman.inspect(self._play(name).container_name)["State"]["Pid"])

    def remove(self, name: str) -> None:
        """Take the pod of a workload away, as an eviction would, leaving it time to end well."""
        self._podman("pod", "rm", "--force", "--time", "30", name)

    def put_back(self, name: str) -> None:
        """Play a workload anew, as its controller would; its pod gets another address."""
        self._start(self._play(name))

    def file(self, volume: str, path: str) -> str:
        """Read a file of a volume."""
        return (self._podman.volume_folder(volume) / path).read_text()

    def confinement(self) -> dict[str, list[str]]:
        """Workload -> in what its container is less confined than it should be."""
        found: dict[str, list[str]] = {}
        for play in self._plays:
            inspected = self._podman.inspect(play.container_name)
            status = Path(f"/proc/{inspected['State']['Pid']}/status").read_text()
            found[play.name] = list(faults(inspected, status))
        return found

    def stop(self) -> None:
        """Take everything down; the images stay."""
        self._podman.clean()

    def _play(self, name: str) -> Play:
        return next(play for play in self._plays if play.name == name)


def played_objects() -> Sequence[Object]:
    """What is played: the overlay `local`, changed where there is no Kubernetes API.

    Raises:
        KustomizeError: it does not render.
    """
    return load(rendered(str(Path(__file__).parent))).objects
