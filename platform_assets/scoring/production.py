"""The version in production: the one that the gateways route to and Triton confirms."""

from __future__ import annotations

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonResource
from platform_assets.serving.switching import PRODUCTION


class NoProductionVersion(Exception):
    """No version can score at present; the message says why, `todo` what to do about it."""

    def __init__(self, message: str, todo: str) -> None:
        super().__init__(message)
        self.todo = todo


def production_version(
    spec: ModelSpec, gateway: GatewayResource, triton: TritonResource
) -> RegisteredVersion:
    """Return the version that clients get now, as the gateways record it.

    Raises:
        NoProductionVersion: there is none, replicas disagree, Triton does not have it READY, or
            its columns differ from those of the model file.
        GatewayClientError, TritonError: a gateway or Triton does not answer.
    """
    name = spec.model_name
    statuses = gateway.model_statuses(name)
    slots = [current for status in statuses if (current := status.effective.get(PRODUCTION))]
    versions = sorted({slot.version for slot in slots})
    if not versions:
        raise NoProductionVersion(
            f"no version of {name} is in production", "take a version to production first"
        )
    if len(versions) > 1:
        raise NoProductionVersion(
            f"the gateway's replicas route {name} to different versions: {versions}",
            "run again when the switch has reached all of them",
        )
    slot = slots[0]
    if not triton.version_ready(name, slot.version):
        raise NoProductionVersion(
            f"version {slot.version} of {name} is in production, but not READY in Triton",
            "see `reason` in GET /models of the gateway, and run again when it is READY",
        )
    expected = tuple(column.feature for column in spec.features)
    if slot.signature is None or slot.signature.features != expected:
        raise NoProductionVersion(
            f"version {slot.version} of {name}, which is in production, reads other columns than "
            "the model file names",
            "take a version of the present model file to production first",
        )
    return RegisteredVersion(
        name, slot.version, slot.run_id, slot.data_fingerprint or "", slot.signature
    )
