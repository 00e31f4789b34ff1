"""One version on all servers behind an address."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from serving_gateway.triton.server import TritonServer
from serving_gateway.triton.server_version import ServerVersion


class VersionState:
    """One version on all servers of a cluster; it changes while it is held.

    Attributes:
        ready: whether at least one server has exactly this version READY and it does not hang.
        reason: why not.
        confirmed_at: `time.monotonic()` of the last confirmation, by a probe or an answer.
        probe_request: a complete HTTP inference request for one harmless row, with which a
            version that hangs is tried.
    """

    def __init__(self, model_name: str, version: int, servers: Sequence[TritonServer]) -> None:
        self.model_name = model_name
        self.version = version
        self.ready = False
        self.reason: str | None = None
        self.confirmed_at: float | None = None
        self.probe_request: bytes | None = None
        self.on_servers: list[ServerVersion] = []
        self.follow(servers)

    def follow(self, servers: Sequence[TritonServer]) -> list[ServerVersion]:
        """Be on exactly these servers; the additions."""
        known = {one.server: one for one in self.on_servers}
        name, version = self.model_name, self.version
        self.on_servers = [
            known.get(server) or ServerVersion(server, name, version, self) for server in servers
        ]
        self.refresh()
        return [one for one in self.on_servers if one.server not in known]

    def refresh(self) -> None:
        """Combine what is known of the servers."""
        ready = False
        for one in self.on_servers:
            one.is_usable = one.is_ready is True and not one.is_hung and one.server.problem is None
            ready = ready or one.is_usable
            if one.is_usable and (self.confirmed_at or 0.0) < (one.confirmed_at or 0.0):
                self.confirmed_at = one.confirmed_at
        self.ready = ready
        self.reason = None if ready or not self.on_servers else self.on_servers[0].reason

    def mark_ready(self) -> None:
        """Note that the version answers."""
        self.confirmed_at = monotonic()
        if not self.ready:
            for one in self.on_servers:
                one.server.note_well()
                one.is_hung = False
                one.note(True)

    def mark_unready(self, reason: str) -> None:
        """Note that no server's version can answer."""
        for one in self.on_servers:
            one.note(False, reason)

    def choose(
        self, tried: tuple[ServerVersion, ...] = (), *, usable_only: bool = False
    ) -> ServerVersion | None:
        """Where the next inference goes: where least are under way; None when nowhere.

        Where none is usable, one that may have recovered or was never asked is better than none.
        """
        on_servers = self.on_servers
        if len(on_servers) == 1 and on_servers[0].is_usable and not tried:
            return on_servers[0]
        best: ServerVersion | None = None
        for one in on_servers:
            if (
                one.is_usable
                and one not in tried
                and (best is None or (one.in_flight, one.turn) < (best.in_flight, best.turn))
            ):
                best = one
        if best is not None or usable_only:
            return best
        return next((one for one in on_servers if one.is_possible and one not in tried), None)
