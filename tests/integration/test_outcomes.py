"""Outcomes of a running gateway's predictions, joined with what it logged of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from platform_assets.model_spec import Gates, Target, Task
from platform_assets.quality.comparisons import paired_outcomes
from platform_assets.quality.matching import match
from platform_assets.quality.records import OutcomeCounts
from serving_gateway.contract import PairedOutcomes
from tests.support.gateway_harness import ROW, run_gateway
from tests.support.models import IRIS
from tests.support.servers import RunningTriton, wait_until

SPEC = replace(
    IRIS, task=Task.BINARY, target=Target("label", classes=(1, 2)), gates=Gates(metric_floor=0.5)
)
"""Version 1 of the fixture answers 1, version 2 answers 2."""


def test_outcomes_of_mirrored_predictions_compare_both_versions(
    tmp_path: Path, shared_triton: RunningTriton
) -> None:
    root, begin = tmp_path / "log", datetime.now(UTC)
    env = {"GATEWAY_SAMPLE_DIR": str(root), "GATEWAY_SAMPLE_FRACTION": "1"}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        gateway.routed(2, alias="B")
        assert gateway.traffic("mirror", 100).status_code == 200
        ids = [gateway.predict(ROW, ROW).json()["prediction_id"] for _ in range(3)]
        sent = [
            {"prediction_id": one, "row": row, "outcome": 2 if row else 1}
            for one in ids
            for row in range(2)
        ]
        stray = {"prediction_id": "of another gateway", "outcome": 1}
        for outcomes in (sent, [*sent[:1], stray], [{**sent[1], "outcome": 1}]):
            answer = gateway.client.post("/outcomes", json={"outcomes": outcomes})
            assert answer.status_code == 200, answer.text
        wait_until(
            lambda: gateway.client.get("/shadow").json()["rows"] == 6, 10, "all rows to be mirrored"
        )
    # What waits of the log is written when the gateway ends.
    until = datetime.now(UTC) + timedelta(seconds=1)
    with match(root, SPEC, since=begin, until=until, now=until) as found:
        counts = found.counts()

    assert counts == OutcomeCounts(
        predictions=6, matured=6, answered=6, duplicate=1, contradicting=1, unmatched=1
    )
    pairs = paired_outcomes(root, SPEC, since=begin, a_version=1, b_version=2, now=until)
    assert isinstance(pairs, PairedOutcomes)
    # A request of two rows counts once, by one of them.
    assert (pairs.only_b + pairs.only_a, pairs.alike) == (3, 0)
