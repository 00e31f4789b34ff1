"""How often sensors look."""

from __future__ import annotations

import pytest

from platform_assets import automation
from platform_assets.intervals import SENSOR_SECONDS, sensor_seconds
from platform_assets.shared_definitions import monitoring_definitions
from tests.support.models import IRIS


def intervals() -> set[int | None]:
    """Seconds between two looks, of the sensors that are built anew."""
    sensors = [
        automation.new_data_sensor(IRIS, automation.chain_job(IRIS)),
        automation.foreign_version_sensor(IRIS, automation.adoption_job(IRIS)),
        *(monitoring_definitions([IRIS]).sensors or []),
    ]
    # Those of the module itself were built when it was loaded.
    own = {"run_failure", "check_warnings"}
    return {sensor.minimum_interval_seconds for sensor in sensors if sensor.name not in own}


def test_sensors_have_intervals_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SENSOR_SECONDS, raising=False)
    assert intervals() == {30, 60}


def test_one_variable_sets_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SENSOR_SECONDS, "5")
    assert intervals() == {5}


@pytest.mark.parametrize("text", ["0", "-1", "5s", "1.5", "٣ s"])
def test_what_is_not_a_number_of_seconds_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(SENSOR_SECONDS, text)
    with pytest.raises(ValueError, match=SENSOR_SECONDS):
        sensor_seconds(30)
