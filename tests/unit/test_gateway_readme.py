"""The gateway's pages say what its code says."""

from __future__ import annotations

import re

import pytest

from serving_gateway.settings import Settings
from tests.support import pages
from tests.support.reference import (
    GATEWAY_REFERENCE,
    codes_in_use,
    error_classes,
    errors_table,
    rewritten,
    settings_table,
)
from tests.support.servers import ROOT


def test_generated_tables_are_fresh() -> None:
    page = GATEWAY_REFERENCE.read_text()
    assert rewritten(page) == page, "run python -m tests.support.reference"


def test_every_setting_has_a_description() -> None:
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []
    assert settings_table().count("\n") == len(Settings.model_fields) + 1


def test_every_error_is_described_for_people() -> None:
    undescribed = [kind.__name__ for kind in error_classes() if not kind.__doc__]
    assert undescribed == []
    table = errors_table()
    for kind in error_classes():
        assert f"| {kind.status} | `{kind.default_code}`" in table


def test_codes_are_found_at_their_raise_sites() -> None:
    codes = codes_in_use()
    assert "variant_pinned" in codes["Conflict"]
    assert "unknown_model" in codes["NotFound"]


def test_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="settings"):
        rewritten("# The serving gateway\n")


@pytest.mark.parametrize("name", pages.tracked_files("serving_gateway/*.md"))
def test_variables_on_a_page_are_settings(name: str) -> None:
    known = {f"GATEWAY_{name}".upper() for name in Settings.model_fields}
    assert set(re.findall(r"\bGATEWAY_[A-Z_]+\b", (ROOT / name).read_text())) <= known
