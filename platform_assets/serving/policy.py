"""Which versions Triton should have READY: pure decisions, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """How Triton differs from the versions that were verified and persisted."""

    lost: tuple[int, ...]
    """Verified, but no longer READY."""
    gained: tuple[int, ...]
    """READY, never verified by the pipeline, and in no use."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.gained)

    @classmethod
    def union(cls, drifts: Collection[Drift]) -> Drift:
        """Merge the drift of several servers."""
        return cls(
            lost=tuple(sorted({version for each in drifts for version in each.lost})),
            gained=tuple(sorted({version for each in drifts for version in each.gained})),
        )


def drift(
    verified: Collection[int], ready: Collection[int], routed: Collection[int] | None = ()
) -> Drift:
    """Compare the persisted policy with what is READY now.

    What gateways route to (`routed`; None: unknown) an operator may have loaded and chosen.
    """
    kept = set(ready) if routed is None else {*verified, *routed}
    return Drift(
        lost=tuple(sorted(set(verified) - set(ready))),
        gained=tuple(sorted(set(ready) - kept)),
    )


def versions_to_load(
    candidate: int,
    *,
    ready: Collection[int],
    verified: Collection[int],
    broken: Collection[int],
) -> tuple[int, ...]:
    """Return the versions that a candidate's load names: it and all that must go on serving.

    A verified version that Triton has lost is loaded again with it, unless its files are broken:
    one version that fails to load would keep out every other that is not READY yet.
    """
    lost = set(verified) - set(broken)
    return tuple(sorted({candidate, *ready, *lost}))


def versions_to_keep(
    *,
    production: int,
    previous: Collection[int],
    routed: Collection[int],
    ready: Collection[int],
    retention: int,
    waiting: Collection[int] = (),
) -> tuple[int, ...]:
    """Return the versions that stay READY after a switch, a subset of `ready`.

    `retention` counts production and the versions that A routed to before (`previous`, newest
    first), so that a rollback is instant. Versions that any variant of any gateway routes to
    (`routed`), and those loaded since and released next (`waiting`), stay in any case and do not
    count.
    """
    line = [version for version in dict.fromkeys((production, *previous)) if version in ready]
    return tuple(sorted({*line[:retention], *({*routed, *waiting} & set(ready))}))


def versions_to_delete(
    *,
    on_disk: Collection[int],
    ready: Collection[int],
    routed: Collection[int],
    ledger: Sequence[int],
    keep: int,
    best: int | None = None,
) -> tuple[int, ...]:
    """Return the version directories that can be deleted, ascending; at least `keep` stay.

    `routed` are the versions that a variant routes to, or that a restarted Triton would load;
    `best` is the one with which every candidate is compared.
    Of the `ledger` (versions that were switched to, newest first) the last `keep` stay in any
    case, since a rollback may want them.
    """
    last = list(dict.fromkeys(ledger))[:keep]
    # A version newer than any ever switched to may be on its way to production.
    newest = max((*ready, *routed, *ledger), default=0)
    needed = {*ready, *routed, *last, best, *(version for version in on_disk if version > newest)}
    spare = sorted(set(on_disk) - needed)
    return tuple(spare[: max(0, len(on_disk) - keep)])
