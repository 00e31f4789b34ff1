"""Giving back to Triton what it lost behind our back, on the real servers."""

from __future__ import annotations

from dataclasses import replace

from platform_assets.resources.gateway import GatewayResource
from platform_assets.serving.loading import persisted_versions
from serving_gateway.contract import DEFAULT_MODEL, MODEL_FILE
from tests.support.full_platform import Platform
from tests.support.onnx_models import write_version
from tests.support.servers import loaded_config


def test_nothing_to_do_is_no_failure(platform: Platform) -> None:
    ready = platform.ready()
    assert platform.reconcile() == {}
    assert platform.ready() == ready


def test_a_lost_version_is_given_back(platform: Platform) -> None:
    before, ready = platform.production(), platform.ready()
    platform.triton_client.endpoints()[0].unload(DEFAULT_MODEL)
    assert platform.ready() == ()
    assert platform.reconcile() == {}
    assert platform.ready() == ready
    platform.gateway.wait_ready()
    assert platform.answering_version() == before


def test_a_version_loaded_from_outside_is_unloaded(platform: Platform) -> None:
    ready, stranger = platform.ready(), 900
    served = platform.triton.repository / DEFAULT_MODEL / str(ready[0]) / MODEL_FILE
    write_version(platform.triton.repository, DEFAULT_MODEL, stranger, served.read_bytes())
    load_from_outside(platform, stranger)
    down = GatewayResource(urls="http://127.0.0.1:9", control_token="none")
    unknown = replace(platform, resources=platform.resources | {"gateway": down})
    assert unknown.reconcile() == {}
    assert stranger in platform.ready(), "a gateway that cannot be asked may route to it"
    assert platform.reconcile() == {}
    assert platform.ready() == ready


def test_a_version_loaded_from_outside_that_an_operator_chose_stays(platform: Platform) -> None:
    chosen = platform.production()
    assert chosen is not None
    while chosen in platform.ready():
        platform.promote()
    load_from_outside(platform, chosen)
    answer = platform.gateway.client.post("/variant/A/reload", json={"version": chosen})
    assert answer.status_code == 200, answer.text
    ready = platform.ready()
    assert platform.reconcile() == {}
    assert platform.ready() == ready
    assert platform.answering_version() == chosen
    platform.promote()


def load_from_outside(platform: Platform, version: int) -> None:
    client, ready = platform.triton_client, platform.ready()
    config = loaded_config(client.url, client.control_key, DEFAULT_MODEL, ready[0])
    config["version_policy"] = {"specific": {"versions": [*ready, version]}}
    client.load(DEFAULT_MODEL, config)
    assert version in platform.ready()


def test_one_damaged_version_does_not_keep_the_others_out(platform: Platform) -> None:
    before, (damaged, production) = two_versions(platform)
    damage(platform, damaged)
    platform.triton_client.endpoints()[0].unload(DEFAULT_MODEL)

    failures = platform.reconcile()

    assert f"These versions cannot be restored: {damaged}" in failures["restore"]
    assert platform.ready() == persisted_versions(platform.repository, DEFAULT_MODEL)
    assert platform.ready() == (production,)
    platform.gateway.wait_ready()
    assert platform.answering_version() == before == production
    assert platform.reconcile() == {}


def test_a_restart_with_one_damaged_version_brings_the_others_back(platform: Platform) -> None:
    """Triton itself loads all versions that a policy names, or none of them."""
    before, (damaged, production) = two_versions(platform)
    damage(platform, damaged)
    platform.triton.restart()
    assert platform.ready() == (production,)
    assert persisted_versions(platform.repository, DEFAULT_MODEL) == (production,)
    platform.gateway.wait_ready()
    assert platform.answering_version() == before


def two_versions(platform: Platform) -> tuple[int | None, tuple[int, ...]]:
    """Production, and it with its predecessor, both READY."""
    platform.promote()
    return platform.production(), platform.ready()


def damage(platform: Platform, version: int) -> None:
    path = platform.repository.path(DEFAULT_MODEL, version) / "model.onnx"
    path.write_bytes(b"damaged")


def test_without_triton_it_fails_and_says_what_to_do(platform: Platform) -> None:
    platform.triton.kill()
    try:
        failures = platform.reconcile()
    finally:
        platform.triton.restart()
    assert "bring Triton back" in failures["restore"]
    platform.gateway.wait_ready()
