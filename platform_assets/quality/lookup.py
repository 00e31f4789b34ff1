"""True values of logged rows, for comparisons of versions before a switch."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.matching import match
from platform_assets.quality.records import QualityError
from platform_assets.resources.samples import SamplesError

_KNOWN: Final = "SELECT id, row, outcome FROM matched WHERE is_matured AND outcome IS NOT NULL"


def matured_outcomes(
    root: Path, spec: ModelSpec, since: datetime
) -> dict[tuple[str, int], str | float]:
    """Return the matured outcomes of a model's predictions since a time, by id and row.

    Raises:
        SamplesError: the files cannot be read as a prediction log or as outcomes.
    """
    now = datetime.now(UTC)
    try:
        with match(root, spec, since=since, until=now, now=now) as found:
            known = found.database.sql(_KNOWN).fetchall()
    except QualityError as error:
        raise SamplesError(str(error)) from error
    return {(name, row): outcome for name, row, outcome in known}
