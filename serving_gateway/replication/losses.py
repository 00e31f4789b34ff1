"""Reports what a routing store lost, in logs and in metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from serving_gateway.contract import RoutingRecord
from serving_gateway.telemetry.counters import LabelledCounts

log = logging.getLogger(__name__)


class LossReporter:
    """Counts records as `restored` to a store that had lost them, or `dropped`."""

    def __init__(self, counts: LabelledCounts) -> None:
        self._restored = counts.labels("restored")
        self._dropped = counts.labels("dropped")

    def report_restore(self, stored: RoutingRecord, written: RoutingRecord) -> None:
        """Report that `written` was written back in place of `stored`."""
        self._restored.inc()
        log.warning(
            "the routing store had lost an accepted change; it was written back",
            extra={"found": _describe(stored), "written": _describe(written)},
        )

    def report_drop(self, dropped: RoutingRecord, kept: RoutingRecord) -> None:
        """Report that `dropped` is lost, and that all replicas route by `kept`."""
        self._dropped.inc()
        log.error(
            "an accepted change was dropped: the routing store lost it and took another one. "
            "Repeat it if it is still wanted.",
            extra={"dropped": _describe(dropped), "kept": _describe(kept)},
        )


def _describe(record: RoutingRecord) -> Mapping[str, Any]:
    return {
        "model": record.model_name,
        "generation": record.generation,
        "versions": {alias: slot.version for alias, slot in record.variants.items()},
        "changed_at": record.changed_at,
        "changed_by": record.changed_by,
        "reason": record.reason,
    }
