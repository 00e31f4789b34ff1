"""Build the images from their Dockerfiles, also where no registry of images can be reached."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.manifests.local.podman import Podman, PodmanError

ROOT: Final = Path(__file__).resolve().parents[3]

BASE: Final = "docker.io/library/python:3.11-slim-bookworm"
"""What every Dockerfile here is FROM, unless told otherwise."""

_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_PULL_TIMEOUT_S: Final = 300.0

Progress = Callable[[str, str], None]
"""Called with (image, what is done about it)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one image is built: `image` is its name, `dockerfile` is relative to the repository."""

    image: str
    dockerfile: Path
    arguments: Mapping[str, str] = field(default_factory=dict)


OURS: Final = (
    # With look-ups by entity and samples, which the manifests switch on.
    Recipe(
        "readygate/gateway",
        Path("k8s/images/gateway/Dockerfile"),
        {"LOCK": "requirements-gateway-features.lock.txt"},
    ),
    Recipe("readygate/pipeline", Path("k8s/images/pipeline/Dockerfile")),
    Recipe("readygate/triton", Path("k8s/images/triton/Dockerfile")),
)
STAND_INS: Final = {
    "redis": Recipe("redis", Path("tests/manifests/local/stand_ins/redis/Dockerfile")),
    "postgres": Recipe("postgres", Path("tests/manifests/local/stand_ins/postgres/Dockerfile")),
}


def ensure_base(podman: Podman, progress: Progress) -> None:
    """Have the base image: there already, pulled, or put together from Debian's packages.

    Raises:
        PodmanError: none of them worked.
    """
    if podman.succeeds("image", "exists", BASE):
        return
    if podman.succeeds("pull", "--quiet", BASE, timeout_s=_PULL_TIMEOUT_S):
        progress(BASE, "pulled")
        return
    progress(BASE, "no registry answers: made from Debian's packages instead")
    # The same system and Python; its interpreter is /usr/bin/python3 where the other one's is
    # /usr/local/bin/python3, so Dockerfiles say python3.
    archive = subprocess.Popen(
        [
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase"),
            "--include=python3-venv,libpython3.11,ca-certificates",
            '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("man", "doc", "locale")),
            "--dpkgopt=force-unsafe-io",
            *("bookworm", "-"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    content, said = archive.communicate()
    if archive.returncode != 0:
        end = "\n".join(said.decode(errors="replace").splitlines()[-10:])
        raise PodmanError(f"the base image could not be made of Debian's packages:\n{end}")
    podman("import", "--quiet", "-", BASE, given=content)


def build(podman: Podman, recipe: Recipe, tag: str) -> str:
    """Build an image and return its full name; quick when nothing changed.

    Raises:
        PodmanError: with the end of what the build printed.
    """
    dockerfile = ROOT / recipe.dockerfile
    name = f"localhost/{recipe.image}:{tag}"
    ignore = dockerfile.with_name("Dockerfile.dockerignore")
    trusted = f"{_CERTIFICATES}:{_CERTIFICATES}:ro"
    podman(
        *("build", "--quiet", "--pull=never", "--network", "host", "--layers"),
        *("--file", str(dockerfile), "--tag", name),
        *(("--ignorefile", str(ignore)) if ignore.exists() else ()),
        # The build trusts whom this machine trusts; nothing of it stays in the image.
        *(("--volume", trusted) if _CERTIFICATES.exists() else ()),
        *(f"--build-arg={key}={value}" for key, value in recipe.arguments.items()),
        str(ROOT),
        timeout_s=1200,
    )
    return name


def ensure_image(podman: Podman, image: str, progress: Progress) -> str:
    """Have the image of a rendered manifest (`name:tag`); return the name to play it by.

    Raises:
        PodmanError: it can neither be built nor pulled.
    """
    name, _, tag = image.partition("@")[0].partition(":")
    if not tag:
        raise PodmanError(f"the manifests name the image {image} without a tag")
    ours = next((recipe for recipe in OURS if recipe.image == name), None)
    if ours is not None:
        progress(image, f"building {ours.dockerfile}")
        return build(podman, ours, tag)
    pulled = f"docker.io/library/{name}:{tag}"
    if podman.succeeds("image", "exists", pulled):
        return pulled
    if podman.succeeds("pull", "--quiet", pulled, timeout_s=_PULL_TIMEOUT_S):
        progress(image, "pulled")
        return pulled
    if name not in STAND_INS:
        raise PodmanError(f"the image {image} can neither be pulled nor built here")
    progress(image, "no registry answers: Debian's own in its place")
    return build(podman, STAND_INS[name], tag)
