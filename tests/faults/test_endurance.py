"""Switches and restarts without end leave every server as small as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.faults.endurance import endure, run_platform
from tests.faults.scale import report, scale

pytestmark = [pytest.mark.needs("haproxy"), pytest.mark.needs("redis-server")]
_MOST_PERCENT: Final = 5.0
_MOST_MIB: Final = 2.0
"""A server that holds next to nothing may grow by so much instead."""
_MOST_DESCRIPTORS: Final = 16
"""Connections that are kept idle between the servers come and go."""


def test_switches_and_restarts_fail_no_request_and_leave_nothing_behind(tmp_path: Path) -> None:
    each, total = scale(8, 100), scale(16, 1_440)
    rounds = [min(each, total - done) for done in range(0, total, each)]
    with run_platform(tmp_path) as platform:
        endurance = endure(platform, rounds=rounds, span=scale(4, 20))
        assert len(platform.generations()) == 1
    figures = endurance.summary()
    report("endurance", **figures)
    assert (endurance.switches, len(endurance.restarts)) == (total, len(rounds) - 1)
    assert (endurance.failed, endurance.wrongly_answered) == (0, 0)
    for before, after in endurance.comparisons():
        for name, held in before.items():
            most = max(held.resident * _MOST_PERCENT / 100, _MOST_MIB * 2**20)
            assert after[name].resident - held.resident < most, (name, held, after[name], figures)
            assert after[name].descriptors - held.descriptors < _MOST_DESCRIPTORS, (name, figures)
    assert endurance.files[-1] <= endurance.files[0], figures
