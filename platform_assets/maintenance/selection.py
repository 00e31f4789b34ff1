"""Select what may be deleted, without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from platform_assets.export.adoption import is_foreign
from platform_assets.resources.mlflow_runs import RunEntry
from platform_assets.resources.mlflow_versions import VersionEntry


@dataclass(frozen=True, slots=True)
class DatedEntry:
    """A record with its time."""

    name: str
    at: float
    """Unix time in seconds."""
    kind: str = ""


def select_expired(
    entries: Iterable[DatedEntry], *, before: float, keep: int, protected: Collection[str] = ()
) -> list[str]:
    """Return the names of entries older than `before` (Unix time in seconds), oldest last.

    Of all `entries` that exist, the newest `keep` of each kind stay, and those whose names are
    `protected`.
    """
    counts: Counter[str] = Counter()
    names = []
    for entry in sorted(entries, key=lambda entry_: entry_.at, reverse=True):
        counts[entry.kind] += 1
        if counts[entry.kind] > keep and entry.at < before and entry.name not in protected:
            names.append(entry.name)
    return names


def select_kept_versions(
    entries: Sequence[VersionEntry], in_use: Collection[int | None], keep: int
) -> frozenset[int]:
    """Return the versions whose records stay, of all `entries` in MLflow, oldest first.

    Those `in_use` are served, on disk, named by an alias, or in the ledger. The newest `keep`
    versions that this pipeline registered stay as well; third-party ones all do.
    """
    own = [entry.version for entry in entries if not is_foreign(entry)]
    third_party = {entry.version for entry in entries if is_foreign(entry)}
    used = {version for version in in_use if version is not None}
    return frozenset({*own[-keep:], *third_party, *used})


def deletable_runs(runs: Iterable[RunEntry], kept: Collection[str]) -> list[RunEntry]:
    """Return the MLflow runs that are neither kept nor belong to a kept training."""
    return [run for run in runs if run.run_id not in kept and run.parent_id not in kept]
