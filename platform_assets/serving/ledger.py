"""The deployment ledger: which version was in production when, why, and by which run.

Each switch is a materialization of `gateway_reload`, with or without a run, and the pipeline reads
the ledger from there. The signed chain in `platform_assets.ledger` proves it to third parties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.resources.events import MaterializationRecord, materializations
from platform_assets.resources.metadata import plain_markdown

if TYPE_CHECKING:
    from platform_assets.resources.mlflow import MlflowResource
    from platform_assets.serving.switching import ConfirmedSwitch

PROMOTION: Final = "promotion"
ROLLBACK: Final = "rollback"
MANUAL: Final = "manual"
"""A switch made directly at a gateway, outside the pipeline."""
UNKNOWN: Final = "unknown"
"""Author of a switch for which the gateway's record names no credential."""

BEST_VERSION: Final = "best_version"
"""Metadata key: the best version ever in production, including the one switched to."""

CHAIN: Final = "ledger"
"""Metadata key: the chain's entry of a switch, described in words."""

MOST_SWITCHES: Final = 500
"""Number of newest switches to search: a rollback goes back no further, and maintenance deletes
nothing that belongs to them."""
_LIMIT: Final = 50
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_REASON_PATTERN: Final = re.compile(rf"({PROMOTION}|{ROLLBACK}) by Dagster run ([0-9a-f-]{{36}})\b")


@dataclass(frozen=True, slots=True)
class SwitchIdentity:
    """Identifies a switch of a model, independent of which source reported it.

    Generations restart when the gateways lose their state, so they are not sufficient: the identity
    also includes the run named in the reason or, for other switches, the gateway's time `at`, to
    the second. A report that says that nothing changed confirms the preceding switch.
    """

    generation: int
    version: int
    reason: str
    at: str = ""
    changed: bool = True

    def is_same(self, other: SwitchIdentity) -> bool:
        """Whether both identify the same switch."""
        if (self.generation, self.version) != (other.generation, other.version):
            return False
        return not (self.changed and other.changed) or self._discriminator == other._discriminator

    @property
    def _discriminator(self) -> str:
        parsed = parse_reason(self.reason)
        return parsed[1] if parsed else self.at[: len("2000-01-01T00:00:00")] or self.reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One switch of production."""

    at: str
    """RFC 3339 time, in UTC."""
    version: int
    previous_version: int | None
    generation: int
    action: str
    """`promotion`, `rollback` or `manual`."""
    by: str
    """Author: the Dagster run, or the person it names; for a manual switch, the gateway's
    credential, such as `token:operator`."""
    reason: str
    changed: bool = True
    """Whether the routing changed; false for a confirmation of the current version."""
    missing: str = ""
    """Which earlier switches the ledger may lack; empty if it has all of them."""
    chain: str = ""
    """The chain's entry of this switch, and who signed it; empty without a chain."""

    @property
    def identity(self) -> SwitchIdentity:
        """The identity of the switch."""
        return SwitchIdentity(self.generation, self.version, self.reason, self.at, self.changed)


def switch_reason(action: str, run_id: str, *, wanted_by: str = "", why: str = "") -> str:
    """Return the reason of a switch, as the routing record and the ledger store it.

    It names the run, which distinguishes it from a manual switch even if the run dies.
    """
    requester = f" for {wanted_by}" if wanted_by else ""
    return f"{action} by Dagster run {run_id}{requester}" + (f": {why}" if why else "")


def parse_reason(reason: str) -> tuple[str, str] | None:
    """Return the action and the Dagster run that `switch_reason` named; None for other reasons."""
    match = _REASON_PATTERN.match(reason)
    return None if match is None else (match[1], match[2])


def switch_metadata(
    spec: ModelSpec,
    switched: ConfirmedSwitch,
    mlflow: MlflowResource,
    metric: str = "",
    more: Mapping[str, dg.MetadataValue | str | int] | None = None,
) -> dict[str, dg.MetadataValue | str | int | float]:
    """Return the metadata of a switch for `gateway_reload`, from which `read_ledger` reads it.

    What people look for comes first, digests last; `more` precedes those.
    """
    answer = switched.answer
    return {
        "version": answer.version,
        "previous_version": answer.previous_version or "none",
        **({"metric": metric} if metric else {}),
        "action": switched.action,
        "reason": switched.reason,
        "mlflow_version": dg.MetadataValue.url(mlflow.version_url(spec.model_name, answer.version)),
        "generation": answer.generation,
        "changed": answer.changed,
        "replicas": "\n".join(switched.replicas),
        **(more or {}),
        "origin": dg.MetadataValue.json(
            {
                "run_id": answer.run_id,
                "run_id_source": answer.run_id_source,
                "feature_contract": spec.contract,
                "code_version": spec.code_version,
            }
        ),
    }


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SwitchReport(Generic[_T]):
    """A switch as a run or the gateway reported it, for `order_reports`."""

    switch: _T
    generation: int
    at: datetime
    by_gateway: bool
    """Whether the time is the gateway's own time of the switch."""

    @property
    def cutoff(self) -> datetime:
        """Other switches whose time is before this one are certainly older."""
        return self.at - _CLOCKS_DIFFER if self.by_gateway else self.at


def read_ledger(instance: dg.DagsterInstance, spec: ModelSpec, limit: int = _LIMIT) -> list[Entry]:
    """Return the newest switches, newest first.

    A retried run records the same generation twice, for one switch. If the first attempt died
    before recording it, the second one found its own version already in production; the previous
    version is then that of the preceding ledger entry. A switch recorded late is moved to its
    place.
    """
    reports: list[SwitchReport[Entry]] = []
    # The first report of a switch has its time.
    for record in reversed([*materializations(instance, spec.key("gateway_reload"), limit)]):
        report = _entry(record)
        identity = report.switch.identity
        if not any(identity.is_same(other.switch.identity) for other in reports):
            reports.append(report)
    entries = order_reports(reversed(reports))
    # A confirmation after a change of traffic names that change's generation: it is not a switch.
    entries = [
        entry
        for entry, older in zip_longest(entries, entries[1:])
        if entry.changed or older is None or older.version != entry.version
    ]
    for place, (entry, older) in enumerate(pairwise(entries)):
        if entry.previous_version is None and older.version != entry.version:
            entries[place] = replace(entry, previous_version=older.version)
    return entries


def best_version(instance: dg.DagsterInstance, spec: ModelSpec) -> int | None:
    """Return the best version that was ever in production; None if no promotion recorded one."""
    for record in materializations(instance, spec.key("gateway_reload"), _LIMIT):
        if BEST_VERSION in record.metadata:
            return int(record.metadata[BEST_VERSION])
    return None


def order_reports(reports: Iterable[SwitchReport[_T]]) -> list[_T]:
    """Return switches newest first, with each late report moved to its place.

    `reports` are in the order of entry, newest first. Generations alone do not order them, because
    they restart when the gateways lose their state; nor do times alone, because a run reports its
    switch with a delay, and clocks differ.
    """
    ordered: list[SwitchReport[_T]] = []
    for report in reversed([*reports]):
        place = 0
        for other in ordered:
            if other.generation <= report.generation or other.at < report.cutoff:
                break
            place += 1
        ordered.insert(place, report)
    return [report.switch for report in ordered]


def _entry(record: MaterializationRecord) -> SwitchReport[Entry]:
    plain = record.metadata
    version, previous = int(plain["version"]), plain.get("previous_version")
    # Prefer the gateway's own time: a switch may be entered long after it happened.
    gateway_time = plain.get("at")
    at = datetime.fromisoformat(gateway_time) if gateway_time else record.at
    entry = Entry(
        at=at.astimezone(UTC).isoformat(timespec="seconds"),
        version=version,
        previous_version=previous if isinstance(previous, int) and previous != version else None,
        generation=int(plain.get("generation", 0)),
        action=str(plain.get("action", PROMOTION)),
        by=str(plain.get("by") or record.run_id),
        reason=str(plain.get("reason", "")),
        changed=bool(plain.get("changed", True)),
        missing=str(plain.get("missing", "")),
        chain=str(plain.get(CHAIN, "")),
    )
    return SwitchReport(entry, entry.generation, at, by_gateway=gateway_time is not None)


def ledger_markdown(entries: Sequence[Entry]) -> str:
    """Render the ledger as a Markdown table."""
    lines = [
        "| at (UTC) | version | before | generation | what | by | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        before = "none" if entry.previous_version is None else str(entry.previous_version)
        cells = (entry.at, str(entry.version), before, str(entry.generation))
        why = entry.reason + (f" ({entry.missing})" if entry.missing else "")
        words = (entry.action, entry.by, why.strip())
        lines.append("| " + " | ".join((*cells, *map(plain_markdown, words))) + " |")
    return "\n".join(lines)


def ledger_json(entries: Sequence[Entry]) -> str:
    """Render the ledger as JSON, for programs."""
    return json.dumps([asdict(entry) for entry in entries], indent=2)
