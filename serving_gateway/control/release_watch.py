"""What a replica does for its releases in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from serving_gateway.control.release_control import ReleaseControl
from serving_gateway.tasks import is_being_cancelled

_EVERY_SECONDS: Final = 1.0


async def watch_releases(releases: Callable[[], Iterable[ReleaseControl]]) -> None:
    """Look after the releases of all hosted models, until cancelled."""
    while not is_being_cancelled():
        for release in [*releases()]:
            await release.write_pending()
        await asyncio.sleep(_EVERY_SECONDS)
