"""Outcomes of predictions that never were, in any number, do not stop the join of those that were.

Clients may send as many as the gateway's limits allow, and the pilot of a release joins once a
minute.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.model_spec import Gates, Outcomes, Target, Task
from platform_assets.quality import matching
from platform_assets.quality.comparisons import paired_outcomes
from serving_gateway.contract import OUTCOMES_FOLDER, PairedOutcomes
from tests.support.models import IRIS
from tests.support.prediction_log import BEGIN, OUTCOMES, Logged, Sent, write_log, write_outcomes

_STRAYS: Final = 500_000
_SPEC: Final = replace(
    IRIS,
    model_name="churn",
    task=Task.BINARY,
    target=Target("left", classes=("no", "yes")),
    gates=Gates(metric_floor=0.5),
    outcomes=Outcomes(outcome_delay=timedelta(days=1)),
)


def _write_strays(root: Path) -> None:
    """Beside the outcomes that are there, more than the join's memory could hold."""
    begin = round(BEGIN.timestamp() * 1e6)
    times = pa.array(range(begin, begin + _STRAYS)).cast(OUTCOMES.field("received_at").type)
    columns = {
        "prediction_id": pa.array(
            [hashlib.md5(str(n).encode()).hexdigest() for n in range(_STRAYS)]
        ),
        "row": pa.array([0] * _STRAYS, pa.int32()),
        "outcome": pa.array(["no"] * _STRAYS),
        "observed_at": times,
        "received_at": times,
    }
    (day,) = (root / "churn" / OUTCOMES_FOLDER).iterdir()
    parquet.write_table(pa.table(columns, schema=OUTCOMES), day / "strays.parquet")


@pytest.mark.slow
def test_strays_take_no_memory_of_a_joined_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = {"memory_limit": "64MB", "max_temp_directory_size": "0KB"}
    monkeypatch.setattr(matching, "_CONFIG", matching._CONFIG | little)
    rows = [Logged(id=f"a-{n}", b_version=2, b_answer="no") for n in range(100)]
    write_log(tmp_path, "churn", rows)
    write_outcomes(tmp_path, "churn", [Sent(id=one.id, value="yes", at=one.at) for one in rows])
    _write_strays(tmp_path)
    found = paired_outcomes(
        tmp_path,
        _SPEC,
        since=BEGIN,
        a_version=1,
        b_version=2,
        now=BEGIN + timedelta(days=30),
    )
    assert found == PairedOutcomes(only_b=100, only_a=0, alike=0)
