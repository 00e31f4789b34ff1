"""The outcome guard's evidence: paired losses on mirrored rows whose outcome is known."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.comparisons import paired_outcomes
from platform_assets.quality.records import QualityError
from platform_assets.resources.samples import SamplesFolder
from serving_gateway.contract import (
    BoundedMean,
    PairedLosses,
    PairedOutcomes,
    Release,
    ReleaseState,
)

Losses = Callable[[ModelSpec, Release, datetime], PairedLosses | None]
"""The outcome guard's evidence; None while it cannot be read."""


def candidate_losses(root: Path, spec: ModelSpec, release: Release, now: datetime) -> PairedLosses:
    """Return the candidate's losses paired with production's, on this side of the switch.

    `root` is the folder of the prediction logs of all models.

    Raises:
        QualityError: the log or the outcomes cannot be read.
    """
    watching = release.state is ReleaseState.WATCHING
    previous, candidate = release.previous_version, release.version
    losses = paired_outcomes(
        root,
        spec,
        since=datetime.fromisoformat(release.since if watching else release.started_at),
        # After the switch the candidate is A, and the previous version is mirrored as B.
        a_version=candidate if watching else previous,
        b_version=previous if watching else candidate,
        now=now,
        score_scale=release.plan.score_scale,
    )
    return _swap(losses) if watching else losses


def losses_reader(samples: SamplesFolder, log: logging.Logger) -> Losses:
    """Return a function that joins the logs; it logs read errors and returns None."""
    root = Path(samples.root).expanduser().absolute()

    def read(spec: ModelSpec, release: Release, now: datetime) -> PairedLosses | None:
        try:
            return candidate_losses(root, spec, release, now)
        # Even a full disk only costs this model its evidence, not the other models their turn.
        except (QualityError, OSError) as error:
            log.warning("%s: outcomes cannot be joined: %s", spec.model_name, error)
            return None

    return read


def _swap(losses: PairedLosses) -> PairedLosses:
    if isinstance(losses, PairedOutcomes):
        return PairedOutcomes(losses.only_a, losses.only_b, losses.alike)
    return BoundedMean(losses.count, -losses.total, losses.squares, -losses.high, -losses.low)
