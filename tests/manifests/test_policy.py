"""Every overlay keeps the policy and the published schemas; broken in one place, it does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from typing import Any, Final

import kubernetes_validate.utils
import pytest
import yaml

from tests.manifests import schemas
from tests.manifests.mutations import MUTATIONS, Mutation
from tests.manifests.policy import CLUSTER, EVERYWHERE, violations
from tests.manifests.reference_rules import SECRETS
from tests.manifests.rendering import K8S, OVERLAYS, Manifests, load, named, rendered
from tests.manifests.workload_rules import USER

PRODUCTION: Final = "overlays/production"
PAGE: Final = K8S / "README.md"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_overlay_keeps_the_policy(overlay: str) -> None:
    assert violations(overlay, load(rendered(f"overlays/{overlay}"))) == []


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_every_object_is_valid_by_the_published_schemas(overlay: str, version: str) -> None:
    manifests = load(rendered(f"overlays/{overlay}"))
    assert list(schemas.problems(manifests.objects, version)) == []


def test_the_versions_are_the_newest_that_is_published_and_three_before_it() -> None:
    published = {".".join(v.split(".")[:2]) for v in kubernetes_validate.utils.all_versions()}
    ordered = sorted(published, key=lambda v: int(v.split(".")[1]))
    assert (ordered[-4], ordered[-1]) == schemas.VERSIONS


def with_component(name: str, folder: Path) -> tuple[Manifests, set[str]]:
    """The production overlay with one component more, checked, and what that changed."""
    return overlaid(folder, components=[relpath(K8S / f"components/{name}", folder)])


def overlaid(folder: Path, **more: Any) -> tuple[Manifests, set[str]]:
    """The production overlay with this on top of it, checked, and what that changed."""
    kustomization = {"resources": [relpath(K8S / PRODUCTION, folder)], **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    after, before = load(rendered(str(folder))), load(rendered(PRODUCTION))
    assert list(schemas.problems(after.objects, schemas.VERSIONS[-1])) == []
    changed = [one for one in after.objects if one not in before.objects]
    changed += [one for one in before.objects if one not in after.objects]
    return after, {named(one) for one in changed}


def test_artifacts_move_to_s3_and_nothing_else_changes(tmp_path: Path) -> None:
    manifests, changed = with_component("s3-artifacts", tmp_path)
    volume = "PersistentVolumeClaim/mlflow-artifacts"
    assert changed == {"Deployment/mlflow", "NetworkPolicy/mlflow-s3", volume}
    assert volume not in {named(one) for one in manifests.objects}
    declared = "only_declared_flows: open, but not declared: mlflow to anywhere at 443"
    assert violations("production", manifests) == [declared]
    command = manifests.get("Deployment/mlflow")["spec"]["template"]["spec"]["containers"][0][
        "command"
    ]
    assert [word for word in command if word.startswith("--artifacts-destination=")] == [
        "--artifacts-destination=s3://mlflow-artifacts"
    ]


def test_the_patch_on_the_page_opens_a_database_of_sources_and_nothing_else(
    tmp_path: Path,
) -> None:
    [patches] = re.findall(r"```yaml\n(patches:.*?)```", PAGE.read_text(), re.DOTALL)
    manifests, changed = overlaid(tmp_path, **yaml.safe_load(patches))
    assert changed == {"NetworkPolicy/dagster-code", "NetworkPolicy/dagster-runs"}
    assert violations("production", manifests) == [
        f"only_declared_flows: open, but not declared: {who} to 203.0.113.7/32 at 5432"
        for who in ("dagster-code", "runs")
    ]


def test_the_page_names_the_owner_and_all_claims_on_shared_volumes(production: Manifests) -> None:
    [line] = [one for one in PAGE.read_text().splitlines() if "Root-owned volumes" in one]
    assert f"chown {USER}:{USER}" in line
    claims = production.of_kind("PersistentVolumeClaim")
    shared = {
        one["metadata"]["name"] for one in claims if "ReadWriteMany" in one["spec"]["accessModes"]
    }
    assert shared == {name for name in production.names("PersistentVolumeClaim") if name in line}


def test_every_rule_has_been_seen_to_fail() -> None:
    rules = {rule.__name__ for rule in EVERYWHERE + CLUSTER}
    assert {mutation.seen_by for mutation in MUTATIONS} == rules | {"schema"}


def test_triton_moves_to_a_gpu_and_nothing_else_changes(tmp_path: Path) -> None:
    manifests, changed = with_component("gpu", tmp_path)
    assert violations("production", manifests) == []
    assert changed == {"Deployment/triton", "ConfigMap/pipeline-environment"}
    pod = manifests.get("Deployment/triton")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_every_component_is_checked() -> None:
    used = {"gpu", "s3-artifacts"}
    for overlay in OVERLAYS:
        kustomization = yaml.safe_load((K8S / f"overlays/{overlay}/kustomization.yaml").read_text())
        used |= {Path(one).name for one in kustomization.get("components", [])}
    assert used == {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}


def test_what_the_pods_of_runs_and_steps_name_is_there(production: Manifests) -> None:
    from platform_assets.kubernetes import step_config
    from platform_assets.model_spec import ComputeResources

    instance = production.get("ConfigMap/dagster-instance")["data"]["dagster.yaml"]
    launcher = yaml.safe_load(instance)["run_launcher"]["config"]
    resources = ("triton", "gateway", "feast", "model_repository", "source", "ledger")
    step = step_config(resources, ComputeResources("1", "1Gi"), changes_repository=True)
    pod, container = step["pod_spec_config"], step["container_config"]

    accounts = {launcher["service_account_name"], pod["service_account_name"]}
    assert accounts <= production.names("ServiceAccount")
    maps = {launcher["instance_config_map"], *launcher["env_config_maps"]}
    assert maps <= production.names("ConfigMap")
    claims = {one["persistent_volume_claim"]["claim_name"] for one in pod["volumes"]}
    assert claims <= production.names("PersistentVolumeClaim")
    of_runs = launcher["run_k8s_config"]["container_config"]["env"]
    read = [one["valueFrom"]["secretKeyRef"] for one in of_runs]
    read += [one["value_from"]["secret_key_ref"] for one in container["env"]]
    for reference in read:
        assert reference["key"] in SECRETS[reference["name"]]
    assert launcher["labels"]["app.kubernetes.io/part-of"] == "readygate"
    assert launcher["run_k8s_config"]["pod_spec_config"]["enableServiceLinks"] is False


def test_argo_cd_may_apply_what_the_overlays_hold_and_nothing_else() -> None:
    argocd = load(rendered("argocd"))
    assert list(schemas.problems(argocd.objects, schemas.VERSIONS[-1])) == []
    project = argocd.get("AppProject/readygate")["spec"]
    allowed = {
        (one["group"], one["kind"])
        for where in ("clusterResourceWhitelist", "namespaceResourceWhitelist")
        for one in project[where]
    }
    applications = list(argocd.of_kind("Application"))
    held = set()
    for application in applications:
        spec = application["spec"]
        assert spec["project"] == "readygate"
        assert spec["source"]["repoURL"] in project["sourceRepos"]
        assert spec["destination"] in project["destinations"]
        for one in load(rendered(spec["source"]["path"].removeprefix("k8s/"))).objects:
            group, _, _ = one["apiVersion"].rpartition("/")
            held.add((group, one["kind"]))
    assert {one["metadata"]["name"] for one in applications} == {
        "readygate-staging",
        "readygate-production",
    }
    monitoring = {("monitoring.coreos.com", kind) for kind in ("PodMonitor", "PrometheusRule")}
    assert held - allowed == set()
    assert allowed - held - monitoring == set()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_what_is_broken_in_one_place_is_seen(mutation: Mutation, production: Manifests) -> None:
    broken = mutation.apply(production)
    found = violations("production", broken)
    found += [f"schema: {one}" for one in schemas.problems(_changed(production, broken), "1.37")]
    assert any(one.startswith(f"{mutation.seen_by}: ") for one in found), found


def _changed(before: Manifests, after: Manifests) -> Iterator[dict[str, Any]]:
    kept = {id(one) for one in before.objects}
    return (one for one in after.objects if id(one) not in kept)
