"""What the gateway says of a release: its state, and what all replicas counted. No HTTP here."""

from __future__ import annotations

from dataclasses import dataclass

from serving_gateway.contract import ReleaseReport
from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.inference.router import Router


@dataclass(slots=True, eq=False)
class ReleaseReporter:
    """Describes the release of one model."""

    router: Router
    control: ReleaseControl

    async def report(self) -> ReleaseReport:
        """The present release or the last one, as this replica routes by it."""
        record = self.router.record
        return ReleaseReport(
            model_name=record.model_name,
            generation=record.generation,
            release=record.release,
            evidence=None,
            stop_pending=self.router.is_withdrawn,
        )
