"""Rules about names: whatever one object calls by name is there, in another object or in code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from pydantic import ValidationError

from serving_gateway.settings import Settings
from tests.manifests.rendering import K8S, Manifests, Object, matches, named

SECRETS: Final = {
    "triton-control": {"key"},
    "gateway-control": {"token", "tokens"},
    "postgres-credentials": {"username", "password"},
    "redis-credentials": {"url", "password"},
    "ledger-key": {"pem"},
    "prediction-log": {"key"},
}
"""Secrets that whoever installs the platform makes, with their keys."""
_PLAUSIBLE: Final = {
    "GATEWAY_REDIS_URL": "redis://:password@redis:6379/0",
    "GATEWAY_CONTROL_TOKENS": f"dagster:{'x' * 32},operator:{'y' * 32}",
}
_ADDRESS: Final = re.compile(r"(?<![\w.-])([a-z][a-z-]*):(\d{2,5})\b")
_READ_BY_OTHERS: Final = frozenset({"HOME", "FEAST_USAGE", "DAGSTER_HOME"})
_LABELS: Final = ("name", "component", "part-of", "managed-by")


def labelled(manifests: Manifests) -> Iterator[str]:
    """Every object says what it belongs to, stands in the namespace, and is there once."""
    seen: set[str] = set()
    for one in manifests.objects:
        labels = one["metadata"].get("labels", {})
        wanted = _LABELS if one["kind"] in {"Deployment", "StatefulSet", "Service"} else _LABELS[2:]
        for label in wanted:
            if f"app.kubernetes.io/{label}" not in labels:
                yield f"{named(one)}: no label app.kubernetes.io/{label}"
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != "serving-platform":
            yield f"{named(one)}: stands in another namespace"
        if named(one) in seen:
            yield f"{named(one)}: there twice"
        seen.add(named(one))


def selected(manifests: Manifests) -> Iterator[str]:
    """Selectors select something; bindings bind accounts that are there to roles that are there."""
    pods = list(manifests.pods("Deployment", "StatefulSet"))
    for one in manifests.of_kind("Deployment", "StatefulSet"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        if not matches(one["spec"]["selector"], labels):
            yield f"{named(one)}: its selector does not match its own pods"
    for one in manifests.of_kind("Service"):
        if [
            p.name for p in pods if matches({"matchLabels": one["spec"]["selector"]}, p.labels)
        ] != [one["metadata"]["labels"]["app.kubernetes.io/name"]]:
            yield f"{named(one)}: selects other pods than those of its name"
    for one in manifests.of_kind("PodDisruptionBudget"):
        if sum(matches(one["spec"]["selector"], pod.labels) for pod in pods) != 1:
            yield f"{named(one)}: does not select exactly one workload"
    for pod in manifests.pods():
        account = pod.spec.get("serviceAccountName")
        if account is not None and account not in manifests.names("ServiceAccount"):
            yield f"{pod.owner}: service account {account} is not there"
    for one in manifests.of_kind("RoleBinding"):
        wanted = {one["roleRef"]["name"]} - manifests.names(one["roleRef"]["kind"])
        wanted |= {s["name"] for s in one["subjects"]} - manifests.names("ServiceAccount")
        for missing in wanted:
            yield f"{named(one)}: {missing} is not there"
        for subject in one["subjects"]:
            if subject.get("namespace", "serving-platform") != "serving-platform":
                yield f"{named(one)}: {subject['name']} stands in another namespace"


def monitored(manifests: Manifests) -> Iterator[str]:
    """What Prometheus is told to scrape is there, with the port that it is told."""
    for one in manifests.of_kind("PodMonitor"):
        chosen = [p for p in manifests.pods() if matches(one["spec"]["selector"], p.labels)]
        for endpoint in one["spec"]["podMetricsEndpoints"]:
            if not chosen or any(endpoint["port"] not in pod.ports for pod in chosen):
                yield f"{named(one)}: no pod, or one without a port {endpoint['port']}"


def ports_resolve(manifests: Manifests) -> Iterator[str]:
    """A Service's port is one that its pods open under that name, with the same number."""
    for one in manifests.of_kind("Service"):
        chosen = {"matchLabels": one["spec"]["selector"]}
        for pod in manifests.pods("Deployment", "StatefulSet"):
            if not matches(chosen, pod.labels):
                continue
            for port in one["spec"]["ports"]:
                if pod.ports.get(port["targetPort"]) != port["port"]:
                    yield f"{named(one)}: port {port['targetPort']} {port['port']} is not opened"


def addressed(manifests: Manifests) -> Iterator[str]:
    """Every `host:port` in a variable, a command or a workspace is a Service with that port."""
    services = {
        (one["metadata"]["name"], port["port"])
        for one in manifests.of_kind("Service")
        for port in one["spec"]["ports"]
    }
    for where, text in _texts(manifests):
        for host, port in _ADDRESS.findall(text):
            if (host, int(port)) not in services and host != "localhost":
                yield f"{where}: no Service answers at {host}:{port}"


def _texts(manifests: Manifests) -> Iterator[tuple[str, str]]:
    for pod in manifests.pods():
        for container in pod.all_containers:
            for name, value in manifests.environment(container).items():
                yield f"{pod.owner} {name}", value or ""
            for word in [*container.get("command", []), *container.get("args", [])]:
                yield pod.owner, word
    workspace = manifests.get(f"ConfigMap/{_workspace_name(manifests)}")["data"]["workspace.yaml"]
    for entry in yaml.safe_load(workspace)["load_from"]:
        server = entry["grpc_server"]
        yield "workspace.yaml", f"{server['host']}:{server['port']}"


def _workspace_name(manifests: Manifests) -> str:
    return next(n for n in manifests.names("ConfigMap") if n.startswith("dagster-workspace"))


def secrets_resolve(manifests: Manifests) -> Iterator[str]:
    """Secrets are references to the declared ones; each declared key is read; none has a value."""
    read: dict[str, set[str]] = {name: set() for name in SECRETS}
    for where, reference in _secret_references(manifests):
        name, key = reference["name"], reference["key"]
        if key not in SECRETS.get(name, set()):
            yield f"{where}: secret {name} has no declared key {key}"
        else:
            read[name].add(key)
    for name, keys in SECRETS.items():
        for key in keys - read[name]:
            yield f"secret {name}: nobody reads its key {key}"
    for one in manifests.of_kind("Secret"):
        yield f"{named(one)}: a secret's value does not belong in Git"
    for pod in manifests.pods():
        for container in pod.all_containers:
            for name, value in manifests.environment(container).items():
                if value and re.search(r"PASSWORD|TOKEN|(^|_)KEY($|_)|AUTH$", name):
                    yield f"{pod.owner}: {name} has its value in Git"


def _secret_references(manifests: Manifests) -> Iterator[tuple[str, Object]]:
    for pod in manifests.pods():
        for container in pod.all_containers:
            for one in container.get("env", []):
                if "secretKeyRef" in one.get("valueFrom", {}):
                    yield f"{pod.owner} {one['name']}", one["valueFrom"]["secretKeyRef"]


def configured(manifests: Manifests) -> Iterator[str]:
    """Every ConfigMap that is mounted or read is there, with the files that are read from it."""
    maps = {one["metadata"]["name"]: one.get("data", {}) for one in manifests.of_kind("ConfigMap")}
    for pod in manifests.pods():
        mounted = {
            volume["name"]: volume["configMap"]["name"]
            for volume in pod.spec.get("volumes", [])
            if "configMap" in volume
        }
        for missing in set(mounted.values()) - maps.keys():
            yield f"{pod.owner}: ConfigMap {missing} is not there"
        for container in pod.all_containers:
            for source in container.get("envFrom", []):
                name = source.get("configMapRef", {}).get("name")
                if name is not None and name not in maps:
                    yield f"{pod.owner}: ConfigMap {name} is not there"
            files: set[str] = set()
            for mount in container.get("volumeMounts", []):
                data = maps.get(mounted.get(mount["name"], ""), {})
                path = mount["mountPath"]
                files |= {f"{path}/{key}" for key in data} if "subPath" not in mount else {path}
                if (
                    mount["name"] in mounted
                    and mount.get("subPath", next(iter(data), "")) not in data
                ):
                    yield f"{pod.owner}: {path} has no file {mount.get('subPath')}"
            for path in _files_read(container) - files:
                yield f"{pod.owner}: nothing is mounted at {path}"


def _files_read(container: Object) -> set[str]:
    words = [*container.get("command", []), *container.get("args", [])]
    for kind in ("startup", "readiness", "liveness"):
        words += container.get(f"{kind}Probe", {}).get("exec", {}).get("command", [])
    text = " ".join(words)
    # What the command itself writes stands below /tmp.
    return set(re.findall(r"(?<![>\w])/(?!tmp/)[\w./-]+\.(?:sh|py|yaml|conf)\b", text))


def gateway_settings(manifests: Manifests) -> Iterator[str]:
    """The gateway knows every variable that it is given, and takes its value."""
    for pod in manifests.pods("Deployment"):
        if pod.name != "gateway":
            continue
        env = manifests.environment(pod.containers[0])
        given = {n: v for n, v in env.items() if n.startswith("GATEWAY_")}
        for name in given:
            if name.removeprefix("GATEWAY_").lower() not in Settings.model_fields:
                yield f"{pod.owner}: the gateway has no setting {name}"
        values: dict[str, Any] = {
            name.removeprefix("GATEWAY_").lower(): value or _PLAUSIBLE.get(name, "x" * 32)
            for name, value in given.items()
        }
        try:
            Settings(**values)
        except ValidationError as error:
            for problem in error.errors():
                yield f"{pod.owner}: {problem['loc']}: {problem['msg']}"


def pipeline_settings(manifests: Manifests) -> Iterator[str]:
    """What Dagster's instance and resources read is set, and what is set is read by somebody."""
    instance = manifests.get("ConfigMap/dagster-instance")["data"].get("dagster.yaml", "")
    of_instance = set(re.findall(r"\benv: *(\w+)", instance))
    sources = [path.read_text() for path in (K8S.parent / "platform_assets").rglob("*.py")]
    of_resources = set(re.findall(r'EnvVar\("(\w+)"\)', "\n".join(sources)))
    for pod in manifests.pods():
        if pod.name not in _DAGSTER:
            continue
        env = manifests.environment(pod.containers[0])
        wanted = of_instance | (of_resources if pod.name == "dagster-code" else set())
        # Who launches runs takes their image from the code location.
        for name in wanted - env.keys() - {"DAGSTER_CURRENT_IMAGE"}:
            yield f"{pod.owner}: {name} is not set"
    words = set(re.findall(r"\w+", "\n".join([*sources, instance])))
    for name in manifests.get("ConfigMap/pipeline-environment")["data"]:
        if name not in words | _READ_BY_OTHERS:
            yield f"ConfigMap/pipeline-environment: nobody reads {name}"


_DAGSTER: Final = frozenset(
    {"dagster-webserver", "dagster-daemon", "dagster-code", "migrate-dagster"}
)


def no_version_in_git(manifests: Manifests) -> Iterator[str]:
    """Which version serves is decided by the pipeline, and recorded in the model repository."""
    for one in manifests.of_kind("ConfigMap"):
        for key, text in one.get("data", {}).items():
            if key.endswith(".pbtxt") or re.search(r"--load-model=\w", text):
                yield f"{named(one)}: {key} says what is served"
    for pod in manifests.pods():
        for container in pod.all_containers:
            if any(word.startswith("--load-model=") for word in _words(container)):
                yield f"{pod.owner}: names a model to load"
            for name in manifests.environment(container):
                if re.search(r"(MODEL|PRODUCTION|SERVED)_VERSION$", name):
                    yield f"{pod.owner}: {name} says what is served"


def _words(container: Object) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]
