"""Reports what a routing store lost: to logs, and counted for metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from serving_gateway.contract import RoutingRecord

log = logging.getLogger(__name__)


class Losses:
    """Reports of this replica.

    Attributes:
        restored: records that were written back to a store that had lost them.
        dropped: records that were replaced although an accepted change was in them alone.
    """

    def __init__(self) -> None:
        self.restored = 0
        self.dropped = 0

    def restore(self, found: RoutingRecord, written: RoutingRecord) -> None:
        """Report that `written` was written back in the place of `found`."""
        self.restored += 1
        log.warning(
            "the routing store had lost an accepted change; it was written back",
            extra={"found": _described(found), "written": _described(written)},
        )

    def drop(self, dropped: RoutingRecord, kept: RoutingRecord) -> None:
        """Report that `dropped` is lost, and that all replicas route by `kept`."""
        self.dropped += 1
        log.error(
            "an accepted change was dropped: the routing store lost it and took another one. "
            "Repeat it if it is still wanted.",
            extra={"dropped": _described(dropped), "kept": _described(kept)},
        )


def _described(record: RoutingRecord) -> Mapping[str, Any]:
    return {
        "model": record.model_name,
        "generation": record.generation,
        "versions": {alias: slot.version for alias, slot in record.variants.items()},
        "changed_at": record.changed_at,
        "changed_by": record.changed_by,
        "reason": record.reason,
    }
