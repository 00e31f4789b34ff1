"""The passport of a version of which much is known, and of which texts are hostile and long."""

from __future__ import annotations

from platform_assets.ledger.chain import SWITCH, next_entry
from platform_assets.ledger.keys import new_private_key, read_key
from platform_assets.passport.document import FORMAT, Act, Fact, Passport, Period, seal
from platform_assets.passport.page import passport_page
from tests.support.evidence import HOSTILE, LONG
from tests.support.model_status import AT

DIGEST = "5b1abbd503ccc180d68e56312a129f46c81a381648016495e659b75d1ac40329"


def example_passport_page() -> str:
    """A page with every section, signed."""
    key = read_key(new_private_key())
    content = {"version": 3, "generation": 5, "reason": HOSTILE}
    gate = {"passed": True, "description": LONG, "measured": {"gain": 0.1, "low": -0.02}}
    acts = {"verdict": "go", "state": "cleared", "reason": LONG, "acts": f"- {AT}, ada: {LONG}"}
    passport = Passport(
        format=FORMAT,
        model_name="best_model",
        version=3,
        made_at=AT,
        facts={
            "Data": [Fact("fingerprint", DIGEST, "ledger, entry 1"), Fact("rows", 450, "Dagster")],
            "Gates": [Fact("no_regression", gate, "ledger, entry 1")],
            "Digests": [
                Fact("model.onnx", DIGEST, f"source {number}, of several") for number in range(4)
            ],
        },
        periods=[Period(AT, None, "promotion", "a person", HOSTILE, 1)],
        release=[Act(AT, acts, "ledger, entry 2")],
        missing=["MLflow did not return all of its records: it does not answer."],
        public_keys=key.public_pem,
        ledger=[next_entry("best_model", None, SWITCH, content, key, AT)],
    )
    return passport_page(seal(passport, key))
