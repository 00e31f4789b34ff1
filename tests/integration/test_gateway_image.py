"""The gateway's image: built from its Dockerfile, run by podman as the manifests say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.manifests.local.images import Recipe, build, ensure_base
from tests.manifests.local.platform import new_secrets, played_objects
from tests.manifests.local.podman import Podman
from tests.manifests.local.security import faults
from tests.manifests.local.translate import plays
from tests.support.servers import ROOT, answers_ok, wait_until

# Debian's packages are fetched and put together, then those of the lock file.
pytestmark = [pytest.mark.timeout(400), pytest.mark.needs("root")]

LIGHT = Recipe("readygate/gateway", Path("k8s/images/gateway/Dockerfile"))
CONTAINER = "gateway-gateway"
# What the light image has no packages for, and the store that is not played here.
LEFT_OUT = {"GATEWAY_FEAST_DIR", "GATEWAY_SAMPLE_DIR", "GATEWAY_REDIS_URL"}
INSTALLED = """
import importlib.metadata, json, platform
packages = {one.name: one.version for one in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version(), "packages": packages}))
"""


@dataclass(frozen=True)
class Built:
    podman: Podman
    image: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    podman = Podman(tmp_path_factory.mktemp("podman"))
    ensure_base(podman, lambda *_: None)
    yield Built(podman, build(podman, LIGHT, "test"))
    podman.reset()


def gateway_pod(image: str, podman: Podman) -> dict[str, Any]:
    """The pod of the rendered manifests, without the volume that runs share with it."""
    found = plays(
        played_objects(),
        secrets=new_secrets(),
        image=lambda _: image,
        volume_folder=podman.volume_folder,
        empty_folder=podman.empty_folder,
    )
    play = next(play for play in found if play.name == "gateway")
    for folder in play.empty:
        podman.make_empty(folder)
    pod = dict(play.pod)
    container = pod["spec"]["containers"][0]
    container["env"] = [entry for entry in container["env"] if entry["name"] not in LEFT_OUT]
    container["volumeMounts"] = [
        mount for mount in container["volumeMounts"] if not mount["mountPath"].startswith("/state")
    ]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    pod["spec"]["volumes"] = [v for v in pod["spec"]["volumes"] if v["name"] in mounted]
    return pod


def test_the_image_holds_the_locked_packages_in_their_versions_and_no_other(built: Built) -> None:
    lock = (ROOT / "requirements-gateway.lock.txt").read_text()
    locked = [Requirement(line.rstrip(" \\")) for line in lock.splitlines() if line[:1].isalpha()]

    said = json.loads(
        built.podman(
            *("run", "--rm", "--network", "none", "--entrypoint", "python"),
            *(built.image, "-c", INSTALLED),
        )
    )

    of_its_python = {"python_full_version": said["python"], "python_version": "3.11"}
    pins = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in locked
        if one.marker is None or one.marker.evaluate(of_its_python)
    }
    installed = {canonicalize_name(name): version for name, version in said["packages"].items()}
    # What makes the environment is not of the lock.
    assert {name: v for name, v in installed.items() if name not in {"pip", "setuptools"}} == pins


def test_the_gateway_answers_confined_as_the_manifests_say_and_leaves_when_asked(
    built: Built,
) -> None:
    podman = built.podman
    podman.make_network()
    for name in ("gateway-control", "prediction-log"):
        podman.make_secret(name, new_secrets()[name])

    podman.play([gateway_pod(built.image, podman)], ["gateway-control"])
    health = f"http://{podman.address('gateway')}:8080/health"
    wait_until(lambda: answers_ok(health), 30, "the gateway in its container answers /health")
    inspected = podman.inspect(CONTAINER)
    status = Path(f"/proc/{inspected['State']['Pid']}/status").read_text()
    podman("stop", "--time", "20", CONTAINER)

    assert list(faults(inspected, status)) == []
    assert not answers_ok(health)
    assert podman.inspect(CONTAINER)["State"]["ExitCode"] == 0
