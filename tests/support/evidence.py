"""The proof of a switch, of what servers might have said."""

from __future__ import annotations

from typing import Any, Final

from platform_assets.export.parity import Parity
from platform_assets.serving.ledger import Entry
from platform_assets.serving.proof_page import Evidence, proof_page
from platform_assets.serving.records import GateVerdict, Promotion
from serving_gateway.contract import Mode, ReloadResponse
from tests.support.model_status import AT, effective_version, live_replica, model_status

HOSTILE: Final = "<script>alert(1)</script>"
LONG: Final = "a line of words that is longer than a page is wide, " * 9 + "x" * 300
VERSION: Final = 3
GENERATION: Final = 5


def promotion() -> Promotion:
    answer = ReloadResponse(
        "success", "A", VERSION, "run", "registry", Mode.SSOT, GENERATION, 2, True
    )
    verdict = GateVerdict(
        "accuracy 0.97 (at least 0.9); floor 0.9", HOSTILE, "data:image/png;base64,"
    )
    return Promotion("best_model", VERSION, "run", answer, verdict)


def evidence_page(**said: Any) -> str:
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
        "parity": Parity(78, 0, 0, 3e-8, 0.0, 1e-4, ()),
        "rows": [{"row": "0", "features": "[5.1]", "gateway": HOSTILE, "scikit-learn": "setosa"}],
        "ledger": [Entry(AT, VERSION, None, GENERATION, "promotion", "me", HOSTILE)],
        "run_url": "http://mlflow/#/runs/run",
        "version_url": "http://mlflow/#/models/best_model/versions/3",
    }
    return proof_page(Evidence(**{**good, **said}), {"answer.txt": f"{HOSTILE}\n{LONG}"})
