"""Stops of releases that are in effect here and could not be written to the store yet.

They are kept next to the snapshots, so that a process which starts again continues them.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from serving_gateway.replication.record_files import in_thread, write_durably

log = logging.getLogger(__name__)


class PendingStop(msgspec.Struct, frozen=True):
    """A stop in effect, to be written whenever the record says that the release goes on."""

    release_id: str
    by: str
    reason: str


class PendingStops:
    """A file for each model in a folder, which processes of one host may share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @in_thread
    def keep(self, model_name: str, stop: PendingStop) -> None:
        """Keep a model's stop durably; OSError when that is not possible."""
        write_durably(self._path(model_name), msgspec.json.encode(stop))

    @in_thread
    def drop(self, model_name: str, stop: PendingStop) -> None:
        """Delete a stop that was written, unless another one is kept by now."""
        if self.read(model_name) == stop:
            self._path(model_name).unlink(missing_ok=True)

    def read(self, model_name: str) -> PendingStop | None:
        """The stop that is kept; one that cannot be read is logged and ignored."""
        path = self._path(model_name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=PendingStop)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("a stop of a release cannot be read", extra={"reason": f"{path}: {error}"})
            return None

    def _path(self, model_name: str) -> Path:
        return self._directory / f"pending-stop-{model_name}.json"
