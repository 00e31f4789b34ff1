"""The last records that this host routed by: what a replica starts from when the store is down.

They are not used while the store answers, except for models of which it has no trace: a store that
lost everything while no replica was up is restored from them. Triton has the last word: a model
that comes from a snapshot is ready only once Triton confirms the version that it names.
"""

from __future__ import annotations

import logging

from serving_gateway.contract import RoutingRecord
from serving_gateway.errors import StoreUnavailable
from serving_gateway.replication.record_files import RecordFiles, in_thread
from serving_gateway.replication.records import decode_record

log = logging.getLogger(__name__)


class Snapshots(RecordFiles):
    """Copies of the routing records in a folder next to the process."""

    _prefix = "snapshot-"

    @in_thread
    def keep(self, record: RoutingRecord) -> None:
        """Replace a model's copy, or delete a removed model's; on `StoreUnavailable` it remains."""
        try:
            if record.removed:
                self.path(record.model_name).unlink(missing_ok=True)
            else:
                self._write(record)
        except OSError as error:
            raise StoreUnavailable(f"The snapshot cannot be written: {error}.") from error

    @in_thread
    def read(self, model_name: str) -> RoutingRecord | None:
        """The record kept last; one that cannot be read is logged and ignored."""
        return self._read(model_name)

    @in_thread
    def read_all(self) -> dict[str, RoutingRecord]:
        """The records kept last of all models, as by `read`."""
        try:
            records = {name: self._read(name) for name in self._names()}
        except OSError as error:
            log.warning("the snapshots cannot be listed", extra={"reason": str(error)})
            return {}
        return {name: record for name, record in records.items() if record is not None}

    def _read(self, model_name: str) -> RoutingRecord | None:
        path = self.path(model_name)
        try:
            return decode_record(path.read_bytes(), model_name, str(path))
        except FileNotFoundError:
            return None
        except (OSError, StoreUnavailable) as error:
            log.warning("a snapshot cannot be used", extra={"reason": str(error)})
            return None
