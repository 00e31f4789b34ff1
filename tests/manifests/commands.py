"""The commands of rendered pods, made to run here: other folders and ports, all else as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from platform_assets.local_stack.triton_package import locate_package, prepare_backends
from platform_assets.local_stack.triton_server import shared_memory_prefix, triton_environment
from tests.manifests.rendering import Manifests, Object
from tests.support.servers import ROOT, TRITON_ENV

CONTROL_KEY = "0123456789abcdef-control-key"
SECRETS = {
    ("triton-control", "key"): CONTROL_KEY,
    ("gateway-control", "token"): "0123456789abcdef-control-token",
    ("gateway-control", "tokens"): (
        "dagster:0123456789abcdef-control-token,operator:0123456789abcdef-operator-token"
    ),
    ("redis-credentials", "url"): "redis://redis:6379/0",
    ("redis-credentials", "password"): "redis-password",
    ("postgres-credentials", "username"): "postgres-user",
    ("postgres-credentials", "password"): "postgres-password",
    ("ledger-key", "pem"): "",
    ("prediction-log", "key"): "0123456789abcdef-log-key",
}


@dataclass(frozen=True, slots=True)
class Runnable:
    """One container of a rendered pod, on this machine.

    Every mount is a folder below `home`; those of ConfigMaps hold what the rendering says.
    """

    manifests: Manifests
    container: Object
    home: Path

    def argv(self, replaced: Mapping[str, str] | None = None) -> list[str]:
        """The command with its variables filled in, and words `replaced` by others."""
        words = [*self.container["command"], *self.container.get("args", [])]
        found = [self._here((replaced or {}).get(word, word)) for word in words]
        return [sys.executable if word == "python" else word for word in found]

    def environ(self, changes: Mapping[str, str]) -> dict[str, str]:
        """The container's variables and nothing else, save the PATH and `changes`."""
        found: dict[str, str] = {}
        for source in self.container.get("envFrom", []):
            if "configMapRef" in source:
                name = source["configMapRef"]["name"]
                found |= self.manifests.get(f"ConfigMap/{name}")["data"]
        for one in self.container.get("env", []):
            if "valueFrom" in one:
                reference = one["valueFrom"]["secretKeyRef"]
                found[one["name"]] = SECRETS[reference["name"], reference["key"]]
            else:
                # As Kubernetes does it, with the variables that stand above.
                found[one["name"]] = re.sub(
                    r"\$\((\w+)\)", lambda m: found.get(m[1], m[0]), one["value"]
                )
        here = {name: self._here(value) for name, value in found.items()}
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": tools, **here, **changes}

    def probe(self, kind: str) -> list[str]:
        """The command of an exec probe."""
        return [self._here(word) for word in self.container[f"{kind}Probe"]["exec"]["command"]]

    def _here(self, text: str) -> str:
        mounts = {
            str(Path(mount["mountPath"]).parent) if "subPath" in mount else mount["mountPath"]
            for mount in self.container["volumeMounts"]
        }
        # In one pass, the longest first: what was replaced must not be again.
        paths = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
        return re.sub(rf"(?<![\w/])({paths})(?![\w-])", rf"{self.home}\1", text)


def runnable(
    manifests: Manifests, workload: str, home: Path, *, containers: str = "containers"
) -> Runnable:
    """Lay out the volumes of a workload's first container, or init container, below `home`."""
    spec = manifests.get(workload)["spec"]["template"]["spec"]
    container = spec[containers][0]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        target = home / mount["mountPath"].lstrip("/")
        name = volumes[mount["name"]].get("configMap", {}).get("name")
        data = manifests.get(f"ConfigMap/{name}")["data"] if name else {}
        if name and "subPath" in mount:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(data[mount["subPath"]])
            continue
        target.mkdir(parents=True, exist_ok=True)
        for key, text in data.items():
            (target / key).write_text(text)
    return Runnable(manifests, container, home)


def triton_image(home: Path) -> dict[str, str]:
    """Make a folder whose `tritonserver` is the embedded one; return a container's variables.

    It stands for an image: server, backends and libraries, and nothing that the manifests say.
    """
    package = locate_package(TRITON_ENV)
    backends = prepare_backends(package, home)
    prefix = shared_memory_prefix(home)
    options = [f"--backend-directory={backends}"]
    for backend in ("python", "onnxruntime"):
        options.append(f"--backend-config={backend},shm-region-prefix-name={prefix}")
    (home / "bin").mkdir()
    server = home / "bin" / "tritonserver"
    server.write_text(f'#!/bin/sh\nexec "{package.binary}" "$@" {" ".join(options)}\n')
    server.chmod(0o755)
    environ = triton_environment(package, TRITON_ENV, {"PATH": os.environ["PATH"]})
    return environ | {"PATH": f"{server.parent}:{environ['PATH']}"}


def run(argv: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        argv, env=environ, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT
    )


def status(url: str, **options: Any) -> int:
    """Status of a GET."""
    return httpx.get(url, timeout=10, trust_env=False, **options).status_code


def path_of(container: Object, kind: str) -> str:
    """Path that an HTTP probe asks."""
    return str(container[f"{kind}Probe"]["httpGet"]["path"])
