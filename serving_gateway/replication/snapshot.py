"""The last records that this host routed by: what a replica starts from when the store is down.

They are never asked while the store answers, but for models of which it holds no trace: a store
that lost everything while no replica was up gets them back. Triton has the last word: a model
that comes from a snapshot is ready only once Triton confirms the version that it names.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec

from serving_gateway.contract import RoutingRecord, is_model_name
from serving_gateway.errors import RecordRefused, StoreUnavailable
from serving_gateway.replication.atomic_file import replace_durably
from serving_gateway.replication.records import decode_record, encode_record

log = logging.getLogger(__name__)

_PREFIX: Final = "snapshot-"


class Snapshots:
    """Copies of the routing records beside the process.

    Args:
        directory: where the files lie; made when missing. Processes of one host may share it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, model_name: str) -> Path:
        """The file of a model's record."""
        return self._directory / f"{_PREFIX}{model_name}.json"

    async def read_all(self) -> dict[str, RoutingRecord]:
        """The records kept last; those that cannot be read are logged and left out."""
        return await asyncio.to_thread(self._read_all)

    async def keep(self, record: RoutingRecord) -> None:
        """Replace what is kept of a model; a removed one has no snapshot.

        Raises:
            StoreUnavailable: it cannot be written; the older snapshot stands.
        """
        try:
            await asyncio.to_thread(self._keep, record)
        except OSError as error:
            raise StoreUnavailable(f"The snapshot cannot be written: {error}.") from error

    def read(self, model_name: str) -> RoutingRecord | None:
        """The record kept last; None when there is none. Blocks.

        Raises:
            StoreUnavailable: it cannot be read.
            RecordRefused: it is corrupt, of a newer schema, or of another model.
        """
        path = self.path(model_name)
        try:
            return decode_record(path.read_bytes(), model_name, str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"The snapshot cannot be read: {error}.") from error

    def _read_all(self) -> dict[str, RoutingRecord]:
        found: dict[str, RoutingRecord] = {}
        for path in self._directory.glob(f"{_PREFIX}*.json"):
            name = path.stem.removeprefix(_PREFIX)
            if not is_model_name(name):
                continue
            try:
                record = self.read(name)
            except (StoreUnavailable, RecordRefused) as error:
                log.warning("a snapshot cannot be used", extra={"reason": error.message})
            else:
                if record is not None:
                    found[name] = record
        return found

    def _keep(self, record: RoutingRecord) -> None:
        path = self.path(record.model_name)
        if record.removed:
            path.unlink(missing_ok=True)
            return
        data = msgspec.json.format(encode_record(record))
        path.parent.mkdir(parents=True, exist_ok=True)
        # A start finds most of them as they should be; writing each durably would take seconds.
        if not path.exists() or path.read_bytes() != data:
            replace_durably(path, data)
