"""What names the release says the same one everywhere."""

from __future__ import annotations

import re

import pytest
import yaml

from serving_gateway import __version__
from tests.manifests.rendering import K8S, OVERLAYS
from tests.support.servers import ROOT


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_takes_the_images_of_this_release(overlay: str) -> None:
    text = (K8S / "overlays" / overlay / "kustomization.yaml").read_text()
    ours = [one for one in yaml.safe_load(text)["images"] if "readygate/" in _target(one)]

    assert {one["name"] for one in ours} >= {"readygate/gateway", "readygate/pipeline"}
    assert {one["newTag"] for one in ours} == {__version__}


def test_argo_cd_takes_production_from_the_tag_of_this_release() -> None:
    application = yaml.safe_load((K8S / "argocd" / "production.yaml").read_text())

    assert application["spec"]["source"]["targetRevision"] == f"v{__version__}"


def test_the_page_builds_the_images_of_this_release() -> None:
    tags = re.findall(r"-t readygate/\w+:(\S+)", (K8S / "README.md").read_text())

    assert tags == [__version__] * 3


def test_the_changelog_has_this_release_with_a_date_below_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", headings[1])


def _target(image: dict[str, str]) -> str:
    return image.get("newName", image["name"])
