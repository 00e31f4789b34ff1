"""The proof as a page: what it claims of what the servers said, and its design."""

from __future__ import annotations

import re
from typing import Any

import pytest

from platform_assets.export.parity import Parity
from platform_assets.resources import plots
from serving_gateway.contract import page_style
from tests.support.evidence import GENERATION, VERSION, evidence_page
from tests.support.model_status import effective_version, live_replica, model_status


def test_page_of_a_confirmed_switch_claims_both_halves_and_runs_nothing() -> None:
    text = evidence_page()
    assert "In production" in text
    assert text.count("<li class='ok'>") == 2
    assert "2 of 2 servers" in text
    assert "2 asked, generation 5 or later" in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 4
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    "said",
    [
        {"ready_servers": [True, False]},
        {"statuses": [model_status({"A": effective_version(2)}, generation=GENERATION)]},
        {"statuses": [model_status({"A": effective_version(VERSION, ready=False)}, generation=5)]},
        {
            "statuses": [
                model_status(
                    {"A": effective_version(VERSION)},
                    generation=GENERATION,
                    replicas=[live_replica("late", GENERATION - 1)],
                )
            ]
        },
        {"parity": Parity(78, 1, 0, 3e-8, 0.0, 1e-4, (4,))},
    ],
    ids=["a Triton lacks it", "another version", "unconfirmed", "a replica is late", "answers"],
)
def test_page_does_not_claim_what_a_server_denies(said: dict[str, Any]) -> None:
    text = evidence_page(**said)
    assert "Not proven in production" in text
    assert ("<li class='bad'>" in text) == ("parity" not in said)


def test_pictures_have_the_colours_of_the_style_sheet() -> None:
    light = page_style().partition("@media")[0]
    colours = set(re.findall(r"#[0-9a-f]{6}", light))
    assert {plots.INK, plots.SOFT, plots.LINE, plots.ACCENT, plots.GOOD, plots.BAD} <= colours
