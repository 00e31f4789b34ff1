"""The log of a gateway process in an outage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.support.gateway_harness import run_gateway
from tests.support.servers import LOOPBACK, free_port, wait_until

REQUESTS = 300


def test_an_outage_is_a_few_log_lines_that_count_every_request(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "gateway.log"

    def lines() -> list[dict[str, object]]:
        found = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in found if line.get("code") == "no_effective_version"]

    with run_gateway(tmp_path, f"http://{LOOPBACK}:{free_port()}") as gateway:
        statuses = Counter(gateway.predict().status_code for _ in range(REQUESTS))
        assert statuses == {503: REQUESTS}
        wait_until(
            lambda: sum(int(str(line.get("count", 1))) for line in lines()) == REQUESTS,
            5,
            "every request in the log",
        )
    first, *later = lines()
    assert first["message"] == "a request was not answered"
    assert first["request_id"]
    assert 1 <= len(later) <= REQUESTS / 10
    assert all(line["reason"] for line in later)
