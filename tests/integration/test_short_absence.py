"""A gateway that is away for a moment turns no run red behind its switch."""

from __future__ import annotations

from typing import Any

import pytest

from platform_assets.resources.gateway import GatewayResource, GatewayUnavailable
from serving_gateway.contract import ModelStatus
from tests.support.full_platform import Platform


class Restarting(GatewayResource):
    """A gateway that does not answer the first time it is asked."""

    def _fail_once(self) -> None:
        away.append("away")
        if len(away) == 1:
            raise GatewayUnavailable("the connection was refused")

    def model_status(self, *args: Any, **kwargs: Any) -> ModelStatus:
        self._fail_once()
        return GatewayResource.model_status(self, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        self._fail_once()
        return GatewayResource.predict(self, *args, **kwargs)


away: list[str] = []


@pytest.mark.parametrize("check", ["gateway_effective", "predict_parity"])
def test_a_check_behind_the_switch_asks_a_gateway_that_is_away_again(
    platform: Platform, check: str
) -> None:
    if not platform.settled():
        platform.promote()
    away.clear()
    there = platform.resources["gateway"]
    restarting = Restarting(urls=there.urls, control_token=there.control_token)
    assert platform.check("gateway_reload", check, gateway=restarting).passed
    assert len(away) > 1
