"""A model's production and release, as the gateway reports them."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource, GatewayUnavailable
from platform_assets.serving.switching import PRODUCTION
from serving_gateway.contract import EffectiveVersion, ReleaseReport


class GatewayView(NamedTuple):
    """A model's production and its release."""

    production: EffectiveVersion | None
    report: ReleaseReport | None
    unreachable: str | None = None
    """Why a replica cannot be asked; production is then not known for all of them."""


def read_view(spec: ModelSpec, gateway: GatewayResource) -> GatewayView:
    """Ask the gateway for production and the release of a model.

    One replica that answers is enough to stop a release by.

    Raises:
        GatewayClientError: none answers.
    """
    try:
        statuses = gateway.model_statuses(spec.model_name)
    except GatewayUnavailable as error:
        report, problem = gateway.release(spec.model_name), str(error)
        # Its newest counts are missing, and they may be what is bad.
        report = replace(report, evidence_problem=report.evidence_problem or problem)
        return GatewayView(None, report, unreachable=problem)
    if not statuses:
        return GatewayView(None, None)
    newest = max(statuses, key=lambda one: one.routing.generation)
    production = newest.effective.get(PRODUCTION)
    return GatewayView(production, None if production is None else gateway.release(spec.model_name))
