"""Placeholder until the look-ups land."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Status(StrEnum):
    """s."""

    FOUND = "found"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    INCOMPLETE = "incomplete"


class Found(msgspec.Struct, frozen=True):
    """f."""

    status: Status
    values: list[Any] | None
    missing: tuple[str, ...] = ()
    event_timestamp: str | None = None
