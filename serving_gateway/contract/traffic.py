"""What variant B gets of the traffic."""

from __future__ import annotations

from enum import StrEnum

from serving_gateway.contract.struct import Struct


class Strategy(StrEnum):
    """What variant B gets of the traffic."""

    OFF = "off"
    SPLIT = "split"
    """B answers its share of the clients."""
    MIRROR = "mirror"
    """B gets a copy of its share; its answer is compared and dropped."""


class Traffic(Struct, frozen=True):
    """The traffic policy between A and B."""

    strategy: Strategy = Strategy.OFF
    percent: float = 0.0
    """B's share of the clients, 0-100, in steps of 0.01."""
    salt: str | None = None
    """Makes cohorts of different salts independent; None keeps the documented plain rule."""
