"""The last record that this host routed by: what a replica starts from when the store is down.

It is never asked while the store answers, and Triton has the last word on it: a replica that
starts from it is ready only once Triton confirms the version that it names.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.atomic_file import replace_durably
from serving_gateway.replication.store import decode_record, names_of_files

_PREFIX: Final = "snapshot-"


def snapshot_names(directory: Path) -> frozenset[str]:
    """The models that have a snapshot in a directory."""
    return names_of_files(directory, _PREFIX)


class Snapshot:
    """A copy of the routing record beside the process.

    Args:
        directory: where the file lies; made when missing. Processes of one host may share it.
        model_name: whose record it is.
    """

    def __init__(self, directory: Path, model_name: str) -> None:
        self._model_name = model_name
        self.path = directory / f"{_PREFIX}{model_name}.json"

    async def read(self) -> RoutingRecord | None:
        """The record kept last; None when there is none.

        Raises:
            StoreUnavailable: it cannot be read.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """
        try:
            data = await asyncio.to_thread(self.path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"The snapshot cannot be read: {error}.") from error
        return decode_record(data, self._model_name, str(self.path))

    async def keep(self, record: RoutingRecord) -> None:
        """Replace what is kept.

        Raises:
            StoreUnavailable: it cannot be written; the older snapshot stands.
        """
        try:
            await asyncio.to_thread(self._keep, record)
        except OSError as error:
            raise StoreUnavailable(f"The snapshot cannot be written: {error}.") from error

    def _keep(self, record: RoutingRecord) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(self.path, msgspec.json.format(msgspec.json.encode(record)))
