"""Which versions were made of the same things, and what their environments do not share."""

from __future__ import annotations

import json

import pytest

from platform_assets.export.checks import latest_equivalent_version
from platform_assets.resources.environment import differences, numeric_environment
from platform_assets.resources.mlflow_versions import VersionEntry
from serving_gateway.contract import CODE_VERSION_TAG, DATA_FINGERPRINT_TAG, ONNX_DIGEST_TAG


def entry(version: int, data: str = "d", code: str = "c", graph: str | None = "g") -> VersionEntry:
    tags = {DATA_FINGERPRINT_TAG: data, CODE_VERSION_TAG: code}
    return VersionEntry(version, "run", tags | ({ONNX_DIGEST_TAG: graph} if graph else {}))


def test_the_newest_version_of_the_same_data_and_code_is_the_twin() -> None:
    entries = [entry(1), entry(2), entry(3, data="other"), entry(4, code="other"), entry(5)]
    twin = latest_equivalent_version(5, entries)
    assert twin is not None
    assert twin.version == 2


@pytest.mark.parametrize(
    "others", [[], [entry(1, data="other")], [entry(1, graph=None)], [entry(7)]]
)
def test_without_a_twin_there_is_nothing_to_compare(others: list[VersionEntry]) -> None:
    assert latest_equivalent_version(5, [*others, entry(5)]) is None


def test_a_version_that_records_nothing_has_no_twin() -> None:
    assert latest_equivalent_version(2, [entry(1), VersionEntry(2, "run", {})]) is None


def test_environments_are_distinguished_by_what_rounds_differently() -> None:
    here = numeric_environment()
    assert differences(here, here) == []
    facts = json.loads(here)
    kernel = next(name for name in facts if name.startswith("openblas"))
    there = json.dumps({**facts, kernel: "another"})
    assert differences(here, there) == [f"{kernel}: another then, {facts[kernel]} now"]
