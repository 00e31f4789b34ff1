"""The proof as a page: what it claims of what the servers said, and its design."""

from __future__ import annotations

import re
from typing import Any

import pytest

from platform_assets.export.parity import Parity
from platform_assets.resources import plots
from platform_assets.serving.ledger import Entry
from platform_assets.serving.proof_page import Evidence, proof_page
from platform_assets.serving.records import GateVerdict, Promotion
from serving_gateway.contract import Mode, ReloadResponse, page_style
from tests.support.model_status import AT, effective_version, live_replica, model_status

HOSTILE = "<script>alert(1)</script>"
VERSION, GENERATION = 3, 5


def promotion() -> Promotion:
    answer = ReloadResponse(
        "success", "A", VERSION, "run", "registry", Mode.SSOT, GENERATION, 2, True
    )
    verdict = GateVerdict(
        "accuracy 0.97 (at least 0.9); floor 0.9", HOSTILE, "data:image/png;base64,"
    )
    return Promotion("best_model", VERSION, "run", answer, verdict)


def page(**said: Any) -> str:
    """The page of a switch that every server confirms, but for what is said otherwise."""
    good: dict[str, Any] = {
        "promotion": promotion(),
        "at": AT,
        "ready_servers": [True, True],
        "statuses": [
            model_status(
                {"A": effective_version(VERSION)},
                generation=GENERATION,
                replicas=[live_replica("r0", GENERATION), live_replica("r1", GENERATION + 1)],
            )
        ],
        "parity": Parity(78, 0, 0, 3e-8, 1e-4, ()),
        "rows": [{"row": "0", "features": "[5.1]", "gateway": HOSTILE, "scikit-learn": "setosa"}],
        "ledger": [Entry(AT, VERSION, None, GENERATION, "promotion", "me", HOSTILE)],
        "run_url": "http://mlflow/#/runs/run",
        "version_url": "http://mlflow/#/models/best_model/versions/3",
    }
    return proof_page(Evidence(**{**good, **said}), {"answer.txt": HOSTILE})


def test_page_of_a_confirmed_switch_claims_both_halves_and_runs_nothing() -> None:
    text = page()
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
        {"parity": Parity(78, 1, 0, 3e-8, 1e-4, (4,))},
    ],
    ids=["a Triton lacks it", "another version", "unconfirmed", "a replica is late", "answers"],
)
def test_page_does_not_claim_what_a_server_denies(said: dict[str, Any]) -> None:
    text = page(**said)
    assert "Not proven in production" in text
    assert ("<li class='bad'>" in text) == ("parity" not in said)


def test_pictures_have_the_colours_of_the_style_sheet() -> None:
    light = page_style().partition("@media")[0]
    colours = set(re.findall(r"#[0-9a-f]{6}", light))
    assert {plots.INK, plots.SOFT, plots.LINE, plots.ACCENT, plots.GOOD, plots.BAD} <= colours
