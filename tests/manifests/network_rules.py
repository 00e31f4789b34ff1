"""Rules about who may talk to whom, and about what Dagster may ask of the Kubernetes API."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.manifests.rendering import NAME, Manifests, Object, matches, named

COMPONENT: Final = "app.kubernetes.io/component"
RUNS: Final = "runs"
ANYWHERE: Final = "anywhere"
CLIENTS: Final = "namespaces of clients"
OPERATORS: Final = "namespaces of operators"
COLLECTORS: Final = "namespaces of collectors"

_PIPELINE: Final = ("dagster-code", RUNS)
FLOWS: Final = frozenset(
    {
        *((CLIENTS, "gateway", 8080), (OPERATORS, "gateway", 8080), ("smoke", "gateway", 8080)),
        *((OPERATORS, "triton", 8002), (OPERATORS, "dagster-webserver", 3000)),
        *(("gateway", "triton", 8000), ("gateway", "mlflow", 5000), ("gateway", "redis", 6379)),
        ("gateway", COLLECTORS, 4318),
        *((one, "gateway", 8080) for one in _PIPELINE),
        *((one, "triton", port) for one in _PIPELINE for port in (8000, 8001)),
        *((one, "mlflow", 5000) for one in _PIPELINE),
        *((one, "redis", 6379) for one in _PIPELINE),
        *((one, "dagster-code", 4000) for one in ("dagster-webserver", "dagster-daemon")),
        *(
            (one, "postgres", 5432)
            for one in (*_PIPELINE, "mlflow", "dagster-webserver", "dagster-daemon")
        ),
        *((one, "postgres", 5432) for one in ("migrate-mlflow", "migrate-dagster")),
        # The Kubernetes API stands wherever the cluster put it; webhooks are on the internet.
        *(
            (one, ANYWHERE, port)
            for one in ("dagster-webserver", "dagster-daemon", RUNS)
            for port in (443, 6443)
        ),
        ("dagster-code", ANYWHERE, 443),
    }
)
"""All that may be said: (who, to whom, TCP port). Pods by their name label."""
_OUTSIDE: Final = frozenset({CLIENTS, OPERATORS, COLLECTORS, ANYWHERE})
_NAMESPACES: Final = {
    "serving-platform/clients": CLIENTS,
    "serving-platform/operators": OPERATORS,
    "serving-platform/collectors": COLLECTORS,
}

Flow = tuple[str, str, int]


def only_declared_flows(manifests: Manifests) -> Iterator[str]:
    """All is denied but what is declared, and what is declared is open at both of its ends."""
    policies = list(manifests.of_kind("NetworkPolicy"))
    if not any(_denies_all(one) for one in policies):
        yield "no policy denies all by default, in both directions"
    if not any(_opens_dns(one) for one in policies):
        yield "no policy lets every pod ask the cluster's DNS"
    names = {pod.name for pod in manifests.pods()}
    opened = {
        direction: set(_opened(policies, direction, names)) for direction in ("egress", "ingress")
    }
    for flow in sorted(FLOWS):
        sender, receiver, port = flow
        if sender not in _OUTSIDE and flow not in opened["egress"]:
            yield f"{sender} may not send to {receiver} at {port}"
        if receiver not in _OUTSIDE and flow not in opened["ingress"]:
            yield f"{receiver} does not accept {sender} at {port}"
    for sender, receiver, port in sorted((opened["egress"] | opened["ingress"]) - FLOWS):
        yield f"open, but not declared: {sender} to {receiver} at {port}"
    ports = {pod.name: set(pod.ports.values()) for pod in manifests.pods()}
    for _, receiver, port in sorted(FLOWS):
        if receiver in ports and port not in ports[receiver]:
            yield f"{receiver} opens no port {port}, to which a flow is declared"


def _denies_all(policy: Object) -> bool:
    spec = policy["spec"]
    return (
        spec["podSelector"] == {}
        and set(spec) == {"podSelector", "policyTypes"}
        and (set(spec["policyTypes"]) == {"Ingress", "Egress"})
    )


def _opens_dns(policy: Object) -> bool:
    spec = policy["spec"]
    wanted = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return spec["podSelector"] == {} and any(
        rule.get("ports") == wanted
        and rule["to"][0].get("podSelector", {}).get("matchLabels") == {"k8s-app": "kube-dns"}
        for rule in spec.get("egress", [])
    )


def _opened(policies: list[Object], direction: str, names: set[str]) -> Iterator[Flow]:
    peers = "to" if direction == "egress" else "from"
    for policy in policies:
        spec = policy["spec"]
        if _opens_dns(policy):
            continue
        for rule in spec.get(direction, []):
            others = [n for one in rule.get(peers, [None]) for n in _who(one, names)]
            for port in rule.get("ports", [{"port": 0}]):
                for own in _who({"podSelector": spec["podSelector"]}, names):
                    for other in others:
                        pair = (own, other) if direction == "egress" else (other, own)
                        yield (*pair, port["port"])


def _who(peer: Mapping[str, Any] | None, names: set[str]) -> list[str]:
    """Pods of this platform that a peer selects, or what it stands for outside."""
    if peer is None:
        return [ANYWHERE]
    if "ipBlock" in peer:
        return [peer["ipBlock"]["cidr"]]
    if "namespaceSelector" in peer:
        labels = peer["namespaceSelector"].get("matchLabels", {})
        return [_NAMESPACES.get(key, f"namespaces {key}") for key in labels] or ["all namespaces"]
    selector = peer["podSelector"]
    found = [name for name in sorted(names) if matches(selector, {NAME: name})]
    if all(matches(selector, {COMPONENT: one}) for one in ("run_worker", "step_worker")):
        found.append(RUNS)
    return found or [f"nobody ({selector})"]


_ASKING: Final = frozenset({"dagster", "dagster-run"})
"""Service accounts of those that launch pods: web server, daemon, and the pods of runs."""

# What the launcher and the executor do; pipes and k8s_job_op are not used here.
_ENTRY_FILES: Final = ("launcher.py", "executor.py")
_VERBS: Final = {"read": "get", "list": "list", "create": "create", "delete": "delete"}
_GROUPS: Final = {"batch_api": "batch", "core_api": ""}


@cache
def dagster_calls() -> frozenset[tuple[str, str, str]]:
    """(API group, resource, verb) of all that the installed dagster-k8s may ask for us.

    Read from its source: the methods of its client that launcher and executor call, and those
    that these call in turn.
    """
    import dagster_k8s

    package = Path(dagster_k8s.__file__).parent
    client = ast.parse((package / "client.py").read_text())
    methods = {n.name: n for n in ast.walk(client) if isinstance(n, ast.FunctionDef)}
    waiting = {
        call
        for file in _ENTRY_FILES
        for call in _attributes(ast.parse((package / file).read_text()), "_api_client")
    }
    done: set[str] = set()
    asked: set[tuple[str, str, str]] = set()
    while waiting:
        name = waiting.pop()
        done.add(name)
        for api, group in _GROUPS.items():
            asked |= {_permission(group, call) for call in _attributes(methods[name], api)}
        waiting |= (_attributes(methods[name], "self") & methods.keys()) - done
    return frozenset(asked)


def _attributes(tree: ast.AST, owner: str) -> set[str]:
    """Names `x` in `owner.x` and `anything.owner.x`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and owner in {getattr(node.value, "id", None), getattr(node.value, "attr", None)}
    }


def _permission(group: str, call: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(\w+?)_namespaced_(\w+?)(?:_(status|log))?", call)
    if found is None or found[1] not in _VERBS:
        raise ValueError(f"dagster-k8s calls {call}, of which nothing is known here")
    resource = f"{found[2]}s" + (f"/{found[3]}" if found[3] else "")
    return group, resource, _VERBS[found[1]]


def only_what_dagster_calls(manifests: Manifests) -> Iterator[str]:
    """Dagster's Role allows what dagster-k8s calls, no more and no less; nobody else has one."""
    for one in manifests.of_kind("ClusterRole", "ClusterRoleBinding"):
        yield f"{named(one)}: nothing here needs the whole cluster"
    allowed = {
        (group, resource, verb)
        for role in manifests.of_kind("Role")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for one in manifests.of_kind("RoleBinding"):
        for subject in one["subjects"]:
            if subject["name"] not in _ASKING:
                yield f"{named(one)}: {subject['name']} asks nothing of the Kubernetes API"
    for extra in sorted(allowed - dagster_calls()):
        yield f"the Role allows {extra}, which dagster-k8s does not call"
    for missing in sorted(dagster_calls() - allowed):
        yield f"the Role does not allow {missing}, which dagster-k8s calls"
