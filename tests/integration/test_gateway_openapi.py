"""The OpenAPI page against the gateway that it describes: thousands of generated requests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scale import report, scale
from tests.support.gateway_harness import RunningGateway

TOKEN = "control-token-0123456789"
ALL_PHASES = "examples,coverage,fuzzing"
GENERATED: list[int] = []
"""How many there were."""
CONFIG = f"""
seed = 20261125
headers = {{ Authorization = "Bearer {TOKEN}" }}

# What the page documents as "not now" is no bug; every other 5xx is one.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]

# What breaks a rule by its length may be too large to be read at all (413).
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]

# Whether rows are good is for the version that answers to say: the page cannot know its width.
[checks.positive_data_acceptance]
enabled = false
"""
KNOWN_PATHS = """
[parameters]
"path.alias" = ["A", "B"]
"path.model" = "best_model"
"""


@pytest.fixture(scope="module")
def gateway_env() -> dict[str, str]:
    return {"GATEWAY_CONTROL_TOKEN": TOKEN}


@pytest.mark.parametrize(
    ("parameters", "phases", "fewest"),
    [
        ("", scale("fuzzing", ALL_PHASES), scale(150, 5_000)),
        (KNOWN_PATHS, ALL_PHASES, scale(500, 5_000)),
    ],
    ids=["any path", "known paths"],
)
def test_no_generated_request_meets_a_bug_or_an_undescribed_answer(
    tmp_path: Path, gateway: RunningGateway, parameters: str, phases: str, fewest: int
) -> None:
    """The quick form of "any path" leaves out the cases that do not depend on the path."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG + parameters)
    gateway.routed(1)
    gateway.routed(2, alias="B")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{gateway.url}/openapi.json", "--no-color", "--no-shrink"),
            *("--max-examples", str(scale(8, 250)), "--phases", phases),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    generated = re.search(r"([\d,]+) generated", done.stdout)
    assert generated is not None
    cases = int(generated[1].replace(",", ""))
    assert cases >= fewest, done.stdout
    GENERATED.append(cases)
    report("openapi", requests=sum(GENERATED), failed=0)
    assert "because of a bug" not in gateway.process.log.read_text()
    # Its models may have been removed: that is no reason to take the replica out.
    assert gateway.client.get("/ready").status_code == 200
