"""What somebody could get wrong in one place of the manifests, and the rule that must see it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

from tests.manifests.rendering import Manifests, named

_GONE: Final = object()


@dataclass(frozen=True)
class Mutation:
    """One thing that somebody could get wrong, and the rule that must see it."""

    seen_by: str
    target: str
    path: str
    """Keys and indexes to the field, separated by spaces; empty for the whole object."""
    value: Any = _GONE
    """What stands there then; nothing, when it is left out."""

    def __str__(self) -> str:
        return f"{self.seen_by}: {self.target} {self.path}"

    def apply(self, manifests: Manifests) -> Manifests:
        """Copy what is rendered, with this one mistake in it."""
        objects = list(manifests.objects)
        index = [named(one) for one in objects].index(self.target)
        if not self.path:
            del objects[index]
            return Manifests(objects)
        objects[index] = copy.deepcopy(objects[index])
        *way, last = [int(key) if key.isdecimal() else key for key in self.path.split()]
        place: Any = objects[index]
        for key in way:
            place = place[key]
        if self.value is _GONE:
            del place[last]
        else:
            place[last] = self.value
        return Manifests(objects)


POD: Final = "spec template spec"
MAIN: Final = f"{POD} containers 0"
MUTATIONS: Final = (
    Mutation("selected", "Service/triton", "spec selector", {"app.kubernetes.io/name": "trition"}),
    Mutation("selected", "Deployment/gateway", "spec selector matchLabels", {"app": "gateway"}),
    Mutation("selected", "RoleBinding/dagster", "subjects 0 name", "default"),
    Mutation("ports_resolve", "Service/gateway", "spec ports 0 targetPort", "web"),
    Mutation("ports_resolve", "Deployment/triton", f"{MAIN} ports 1 containerPort", 9001),
    Mutation("addressed", "ConfigMap/pipeline-environment", "data TRITON_URL", "http://triton:800"),
    Mutation("addressed", "Deployment/gateway", f"{MAIN} env 2 value", "http://tritonserver:8000"),
    Mutation("probed", "Deployment/gateway", f"{MAIN} readinessProbe httpGet path", "/health"),
    Mutation("probed", "Deployment/triton", f"{MAIN} startupProbe"),
    Mutation("probed", "Deployment/mlflow", f"{MAIN} livenessProbe httpGet port", "htpp"),
    Mutation("resourced", "Deployment/gateway", f"{MAIN} resources requests memory", "1Gi"),
    Mutation("resourced", "Deployment/mlflow", f"{MAIN} resources limits memory"),
    Mutation("resourced", "Deployment/gateway", f"{MAIN} resources requests cpu"),
    Mutation(
        "secrets_resolve", "Deployment/triton", f"{MAIN} env 2 valueFrom secretKeyRef key", "token"
    ),
    Mutation(
        "secrets_resolve", "ConfigMap/pipeline-environment", "data TRITON_CONTROL_KEY", "s3cret"
    ),
    Mutation("only_what_dagster_calls", "Role/dagster", "rules 0 verbs", ["create", "list"]),
    Mutation("only_what_dagster_calls", "RoleBinding/dagster", "subjects 0 name", "dagster-step"),
    Mutation(
        "only_what_dagster_calls",
        "Role/dagster",
        "rules 2 verbs",
        ["delete", "get", "list", "watch"],
    ),
    Mutation("graceful", "Deployment/gateway", f"{MAIN} lifecycle"),
    Mutation("graceful", "Deployment/gateway", f"{POD} terminationGracePeriodSeconds", 30),
    Mutation("graceful", "Deployment/triton", f"{MAIN} env 1 value", "60"),
    Mutation(
        "replaced_in_order", "Deployment/gateway", "spec strategy rollingUpdate maxUnavailable", 1
    ),
    Mutation(
        "replaced_in_order", "Deployment/dagster-daemon", "spec strategy", {"type": "RollingUpdate"}
    ),
    Mutation("survives_evictions", "PodDisruptionBudget/gateway", ""),
    Mutation("survives_evictions", "PodDisruptionBudget/gateway", "spec maxUnavailable", 0),
    Mutation(
        "survives_evictions", "PodDisruptionBudget/triton", "spec selector matchLabels", {"a": "b"}
    ),
    Mutation("highly_available", "Deployment/gateway", "spec replicas", 1),
    Mutation("monitored", "PodMonitor/triton", "spec podMetricsEndpoints 0 port", "http-metrics"),
    Mutation("scaled_by_one", "Deployment/gateway", "spec replicas", 2),
    Mutation("claimed", "PersistentVolumeClaim/postgres-data", "metadata annotations"),
    Mutation("claimed", "Deployment/triton", f"{MAIN} volumeMounts 0 readOnly", False),
    Mutation("claimed", "Deployment/gateway", f"{MAIN} volumeMounts 0 readOnly"),
    Mutation(
        "shared_between_nodes",
        "PersistentVolumeClaim/model-repository",
        "spec accessModes",
        ["ReadWriteOnce"],
    ),
    Mutation("synced_in_waves", "PersistentVolumeClaim/postgres-data", "metadata annotations"),
    Mutation(
        "synced_in_waves",
        "Job/migrate-mlflow",
        "metadata annotations argocd.argoproj.io/hook",
        "PreSync",
    ),
    Mutation("only_declared_flows", "NetworkPolicy/default-deny", ""),
    Mutation("only_declared_flows", "NetworkPolicy/dns", "spec egress", []),
    Mutation("only_declared_flows", "NetworkPolicy/default-deny", "spec policyTypes", ["Ingress"]),
    Mutation("only_declared_flows", "NetworkPolicy/triton", "spec ingress 0 ports 0 port", 8001),
    Mutation(
        "only_declared_flows",
        "NetworkPolicy/redis",
        "spec ingress 0 from",
        [{"namespaceSelector": {}}],
    ),
    Mutation(
        "pinned", "Deployment/dagster-code", f"{MAIN} image", "registry.example.com/pipeline:0.2.0"
    ),
    Mutation("pinned", "Deployment/gateway", f"{MAIN} image", "example.com:5000/gateway:latest"),
    Mutation("pinned", "StatefulSet/redis", f"{MAIN} image", "redis"),
    Mutation("restricted", "Deployment/mlflow", f"{POD} securityContext runAsUser", 0),
    Mutation("restricted", "Deployment/gateway", f"{POD} securityContext seccompProfile"),
    Mutation("restricted", "Deployment/gateway", f"{POD} hostNetwork", True),
    Mutation("restricted", "Deployment/gateway", f"{MAIN} ports 0 hostPort", 8080),
    Mutation("restricted", "Deployment/gateway", f"{MAIN} securityContext privileged", True),
    Mutation("restricted", "Deployment/gateway", f"{MAIN} securityContext capabilities", {}),
    Mutation("restricted", "StatefulSet/redis", f"{MAIN} securityContext readOnlyRootFilesystem"),
    Mutation("restricted", "Job/smoke", f"{MAIN} securityContext allowPrivilegeEscalation"),
    Mutation("restricted", "Deployment/gateway", f"{POD} enableServiceLinks"),
    Mutation("restricted", "Deployment/gateway", f"{POD} automountServiceAccountToken", True),
    Mutation("restricted", "Job/migrate-dagster", f"{POD} automountServiceAccountToken", False),
    Mutation("gateway_settings", "Deployment/gateway", f"{MAIN} env 0 name", "GATEWAY_ADDRESS"),
    Mutation("gateway_settings", "Deployment/gateway", f"{MAIN} env 1 value", "http"),
    Mutation("pipeline_settings", "Deployment/dagster-daemon", f"{MAIN} envFrom", []),
    Mutation(
        "pipeline_settings",
        "ConfigMap/pipeline-environment",
        "data MLFLOW_URI",
        "http://mlflow:5000",
    ),
    Mutation("configured", "ConfigMap/dagster-instance", "data", {}),
    Mutation("configured", "Deployment/triton", f"{MAIN} command 1", "/scripts/run.sh"),
    Mutation(
        "no_version_in_git", "Deployment/triton", f"{MAIN} command 1", "--load-model=best_model"
    ),
    Mutation("labelled", "Service/mlflow", "metadata namespace", "default"),
    Mutation("schema", "Deployment/gateway", f"{MAIN} readinesProbe", {}),
    Mutation("schema", "Service/gateway", "spec ports 0 port", "http"),
    Mutation("schema", "NetworkPolicy/dns", "spec egres", []),
)
"""Each of them alone turns the checks of the production overlay red."""
