"""A model's production and release, as the gateway reports them."""

from __future__ import annotations

from typing import NamedTuple

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import EffectiveVersion, ReleaseReport


class GatewayView(NamedTuple):
    """A model's production and its release."""

    production: EffectiveVersion | None
    report: ReleaseReport | None


def read_view(spec: ModelSpec, gateway: GatewayResource) -> GatewayView:
    """Ask the gateway for production and the release of a model.

    Raises:
        GatewayClientError: it does not answer.
    """
    statuses = gateway.model_statuses(spec.model_name)
    if not statuses:
        return GatewayView(None, None)
    newest = max(statuses, key=lambda one: one.routing.generation)
    production = newest.effective.get(PRODUCTION)
    return GatewayView(production, None if production is None else gateway.release(spec.model_name))
