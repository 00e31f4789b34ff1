"""Every overlay keeps the policy and the published schemas; broken in one place, it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate.utils
import pytest

from tests.manifests import schemas
from tests.manifests.mutations import MUTATIONS, Mutation
from tests.manifests.policy import violations
from tests.manifests.rendering import OVERLAYS, Manifests, load, rendered


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def production() -> Manifests:
    return load(rendered("overlays/production"))


def test_every_overlay_keeps_the_policy(overlay: str) -> None:
    assert violations(overlay, load(rendered(f"overlays/{overlay}"))) == []


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_every_object_is_valid_by_the_published_schemas(overlay: str, version: str) -> None:
    manifests = load(rendered(f"overlays/{overlay}"))
    assert list(schemas.problems(manifests.objects, version)) == []


def test_the_versions_are_the_newest_that_are_published() -> None:
    published = [".".join(v.split(".")[:2]) for v in kubernetes_validate.utils.all_versions()]
    newest = sorted(set(published), key=lambda v: int(v.split(".")[1]))[-len(schemas.VERSIONS) :]
    assert tuple(newest) == schemas.VERSIONS


def test_argo_cd_may_apply_what_the_overlays_hold_and_nothing_else() -> None:
    argocd = load(rendered("argocd"))
    assert list(schemas.problems(argocd.objects, schemas.VERSIONS[-1])) == []
    project = argocd.get("AppProject/serving-platform")["spec"]
    allowed = {
        (one["group"], one["kind"])
        for where in ("clusterResourceWhitelist", "namespaceResourceWhitelist")
        for one in project[where]
    }
    applications = list(argocd.of_kind("Application"))
    held = set()
    for application in applications:
        spec = application["spec"]
        assert spec["project"] == "serving-platform"
        assert spec["source"]["repoURL"] in project["sourceRepos"]
        assert spec["destination"] in project["destinations"]
        for one in load(rendered(spec["source"]["path"].removeprefix("k8s/"))).objects:
            group, _, _ = one["apiVersion"].rpartition("/")
            held.add((group, one["kind"]))
    assert {one["metadata"]["name"] for one in applications} == {
        "serving-platform-staging",
        "serving-platform-production",
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
