"""Rules about how workloads are replaced, evicted, stored and synced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.manifests.rendering import Manifests, Object, matches, named

SURGE: Final = frozenset({"gateway", "triton", "dagster-webserver", "dagster-code"})
RECREATE: Final = frozenset({"dagster-daemon", "mlflow"})
REPLICATED: Final = frozenset({"gateway", "triton"})
WAVES: Final = {
    "postgres": 10,
    "redis": 10,
    "mlflow": 20,
    "triton": 20,
    "dagster-webserver": 30,
    "dagster-daemon": 30,
    "dagster-code": 30,
    "gateway": 40,
}
HOOKS: Final = {
    "migrate-mlflow": ("Sync", 15),
    "migrate-dagster": ("Sync", 15),
    "smoke": ("PostSync", 0),
}
_WAVE: Final = "argocd.argoproj.io/sync-wave"
_OPTIONS: Final = "argocd.argoproj.io/sync-options"
_HOOK: Final = "argocd.argoproj.io/hook"


def replaced_in_order(manifests: Manifests) -> Iterator[str]:
    """A new pod before the old one goes; one at a time where two would be in each other's way."""
    for one in manifests.of_kind("Deployment"):
        name = one["metadata"]["name"]
        strategy = one["spec"].get("strategy", {})
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        wanted = rolling if name in SURGE else {"type": "Recreate"}
        if name not in SURGE | RECREATE or strategy != wanted:
            yield f"{named(one)}: strategy {strategy}, not {wanted}"
        if name in RECREATE and one["spec"].get("replicas") != 1:
            yield f"{named(one)}: two at a time would be in each other's way"
    for one in manifests.of_kind("StatefulSet"):
        if one["spec"].get("replicas") != 1:
            yield f"{named(one)}: keeps its state on one volume, so there can be one only"


def survives_evictions(manifests: Manifests) -> Iterator[str]:
    """Replicas stand on different nodes, and a drained node takes one of them at a time."""
    budgets = list(manifests.of_kind("PodDisruptionBudget"))
    for pod in manifests.pods("Deployment"):
        if pod.name not in REPLICATED:
            continue
        own = [b for b in budgets if matches(b["spec"]["selector"], pod.labels)]
        if [b["spec"].get("maxUnavailable") for b in own] != [1]:
            yield f"{pod.owner}: needs one disruption budget with maxUnavailable 1"
        spread = pod.spec.get("topologySpreadConstraints", [])
        if not any(
            one["topologyKey"] == "kubernetes.io/hostname"
            and matches(one["labelSelector"], pod.labels)
            for one in spread
        ):
            yield f"{pod.owner}: its replicas may all stand on one node"


def scaled_by_one(manifests: Manifests) -> Iterator[str]:
    """Either Git or an autoscaler says how many there are; never both, and not fewer than two."""
    scaled: set[str] = set()
    for one in manifests.of_kind("HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        scaled.add(f"{target['kind']}/{target['name']}")
        if one["spec"]["minReplicas"] < 2:
            yield f"{named(one)}: fewer than two replicas"
    for one in manifests.of_kind("Deployment"):
        if named(one) in scaled and "replicas" in one["spec"]:
            yield f"{named(one)}: replicas in Git fight with the autoscaler"
        if named(one) not in scaled and "replicas" not in one["spec"]:
            yield f"{named(one)}: nobody says how many there are"
    for missing in scaled - {named(one) for one in manifests.of_kind("Deployment")}:
        yield f"{missing}: scaled, but not there"


def highly_available(manifests: Manifests) -> Iterator[str]:
    """More than one gateway, for environments with more than one node."""
    for one in manifests.of_kind("Deployment"):
        if one["metadata"]["name"] == "gateway" and one["spec"].get("replicas", 2) < 2:
            yield f"{named(one)}: one replica is none while it is replaced"


def _claims(manifests: Manifests) -> dict[str, list[tuple[Object, bool]]]:
    """By claim: the workloads that mount it, and whether other pods than one may at once."""
    found: dict[str, list[tuple[Object, bool]]] = defaultdict(list)
    for one in manifests.of_kind("Deployment", "StatefulSet"):
        many = one["spec"].get("strategy", {}).get("type") == "RollingUpdate"
        for volume in one["spec"]["template"]["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                found[volume["persistentVolumeClaim"]["claimName"]].append((one, many))
    return found


def claimed(manifests: Manifests) -> Iterator[str]:
    """Every claim is there, used, and kept; Triton and the code location never write models."""
    claims = _claims(manifests)
    for missing in claims.keys() ^ manifests.names("PersistentVolumeClaim"):
        yield f"PersistentVolumeClaim/{missing}: mounted but not there, or there and not mounted"
    for one in manifests.of_kind("PersistentVolumeClaim"):
        if one["metadata"].get("annotations", {}).get(_OPTIONS) != "Prune=false,Delete=false":
            yield f"{named(one)}: a sync may delete it, with what it holds"
    for pod in manifests.pods():
        volumes = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod.spec.get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        for container in pod.all_containers:
            for mount in container.get("volumeMounts", []):
                claim = volumes.get(mount["name"])
                if claim == "model-repository" and mount.get("readOnly") is not True:
                    yield f"{pod.owner}: may write the model repository"
                if mount["mountPath"] == "/models" and claim != "model-repository":
                    yield f"{pod.owner}: /models is not the model repository"
                if mount["mountPath"] == "/state/feast" and mount.get("readOnly") is not True:
                    yield f"{pod.owner}: may write the feature store's state"


def shared_between_nodes(manifests: Manifests) -> Iterator[str]:
    """What pods of several nodes mount is ReadWriteMany; what one pod mounts is not."""
    for name, users in _claims(manifests).items():
        claim = manifests.get(f"PersistentVolumeClaim/{name}")
        shared = len(users) > 1 or any(many for _, many in users)
        wanted = ["ReadWriteMany"] if shared else ["ReadWriteOnce"]
        if claim["spec"]["accessModes"] != wanted:
            yield f"{named(claim)}: {claim['spec']['accessModes']}, not {wanted}"


def synced_in_waves(manifests: Manifests) -> Iterator[str]:
    """Argo CD applies in an order that can come to an end, on an empty cluster too."""
    for one in manifests.of_kind("Deployment", "StatefulSet"):
        wanted = WAVES.get(one["metadata"]["name"])
        if wave(one) != wanted:
            yield f"{named(one)}: sync wave {wave(one)}, not {wanted}"
    for name, users in _claims(manifests).items():
        claim = manifests.get(f"PersistentVolumeClaim/{name}")
        first = min(wave(one) for one, _ in users)
        # Where volumes are bound on first use, the wave of a claim alone would never be healthy.
        if wave(claim) != first:
            yield f"{named(claim)}: sync wave {wave(claim)}, its first user's is {first}"
    for one in manifests.of_kind("Job"):
        hook = one["metadata"].get("annotations", {}).get(_HOOK)
        if (hook, wave(one)) != HOOKS.get(one["metadata"]["name"]):
            yield f"{named(one)}: hook {hook} in wave {wave(one)}"
    for one in manifests.of_kind("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap"):
        if wave(one):
            yield f"{named(one)}: belongs to wave 0"


def wave(one: Object) -> int:
    """The sync wave of an object."""
    return int(one["metadata"].get("annotations", {}).get(_WAVE, 0))
