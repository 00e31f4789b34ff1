"""What a running container may not be, asked of podman and of the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.manifests.local.podman import USER


def faults(inspected: Mapping[str, Any], status: str) -> Iterator[str]:
    """Say in what a container is less confined than the manifests promise; nothing when it is.

    Args:
        inspected: what `podman container inspect` says.
        status: `/proc/1/status`, read inside the container.
    """
    host = inspected["HostConfig"]
    kernel = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    ids = {*kernel["Uid"].split(), *kernel["Gid"].split()}
    if ids != {str(USER)}:
        yield f"runs as user or group {sorted(ids - {str(USER)})}"
    if not host["ReadonlyRootfs"]:
        yield "may write its root file system"
    if host["Privileged"]:
        yield "is privileged"
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        if int(kernel[kind], 16) != 0:
            yield f"has capabilities ({kind} {kernel[kind].strip()})"
    if kernel["NoNewPrivs"].strip() != "1":
        yield "may gain privileges"
    if kernel["Seccomp"].strip() != "2":
        yield "has no seccomp filter"
