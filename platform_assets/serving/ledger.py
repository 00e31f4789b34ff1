"""The deployment ledger: which version was in production when, why, and by which run.

Each switch is a materialization of `gateway_reload`, with or without a run, and the pipeline reads
the ledger from there. What proves it to others is the chain beside it (`platform_assets.ledger`).
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
from platform_assets.resources.events import Materialized, materializations
from platform_assets.resources.metadata import plain_markdown

if TYPE_CHECKING:
    from platform_assets.resources.mlflow import MlflowResource
    from platform_assets.serving.switching import ConfirmedSwitch

PROMOTION: Final = "promotion"
ROLLBACK: Final = "rollback"
MANUAL: Final = "manual"
"""A switch that was made at a gateway, without the pipeline."""
UNKNOWN: Final = "unknown"
"""Who made a switch, where the gateway's record does not name a credential."""

BEST_VERSION: Final = "best_version"
"""Metadata key: the best version that was ever in production, once this one is."""

CHAIN: Final = "ledger"
"""Metadata key: which entry of the chain a switch is, in words."""

MOST_SWITCHES: Final = 500
"""Newest switches that are looked through: a rollback goes back no further, and the maintenance
deletes nothing of them."""
_LIMIT: Final = 50
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_BY_A_RUN: Final = re.compile(rf"({PROMOTION}|{ROLLBACK}) by Dagster run ([0-9a-f-]{{36}})\b")


@dataclass(frozen=True, slots=True)
class SwitchIdentity:
    """What tells a switch from every other of its model, whoever reports it.

    Generations begin anew when the gateways' state is lost, so it takes more than those: the run
    that the reason names, and of other switches the gateway's time `at`, to the second. Where a
    report says that nothing changed, it confirms the switch before.
    """

    generation: int
    version: int
    reason: str
    at: str = ""
    changed: bool = True

    def is_same(self, other: SwitchIdentity) -> bool:
        """Whether both tell of one switch."""
        if (self.generation, self.version) != (other.generation, other.version):
            return False
        return not (self.changed and other.changed) or self._mark == other._mark

    @property
    def _mark(self) -> str:
        made = parse_reason(self.reason)
        return made[1] if made else self.at[: len("2000-01-01T00:00:00")] or self.reason


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
    """Who: the Dagster run or the person that it names; of a manual switch the gateway's
    credential, as `token:operator`."""
    reason: str
    changed: bool = True
    """Whether the gateways moved; a confirmation of what is there already does not."""
    missing: str = ""
    """Which switches before this one may not be in the ledger; empty when all of them are."""
    chain: str = ""
    """Which entry of the chain it is, and who signed that; empty where there is no chain."""

    @property
    def identity(self) -> SwitchIdentity:
        """What tells the switch from others."""
        return SwitchIdentity(self.generation, self.version, self.reason, self.at, self.changed)


def switch_reason(action: str, run_id: str, *, wanted_by: str = "", why: str = "") -> str:
    """Return why a switch is made, as the routing record and the ledger keep it.

    It names the run, so that it is distinguishable from a manual switch even if its run dies.
    """
    asked = f" for {wanted_by}" if wanted_by else ""
    return f"{action} by Dagster run {run_id}{asked}" + (f": {why}" if why else "")


def parse_reason(reason: str) -> tuple[str, str] | None:
    """Return the action and the Dagster run that `switch_reason` named; None for other reasons."""
    found = _BY_A_RUN.match(reason)
    return None if found is None else (found[1], found[2])


def switch_metadata(
    spec: ModelSpec,
    switched: ConfirmedSwitch,
    mlflow: MlflowResource,
    metric: str = "",
    more: Mapping[str, dg.MetadataValue | str | int] | None = None,
) -> dict[str, dg.MetadataValue | str | int | float]:
    """What a materialization of `gateway_reload` says of a switch; `read_ledger` reads it.

    In the order in which people look for it, digests last; `more` stands before those.
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
    """A switch as a run or the gateway reported it, for `in_order`."""

    switch: _T
    generation: int
    at: datetime
    by_gateway: bool
    """Whether the time is the gateway's, of the switch itself."""

    @property
    def not_before(self) -> datetime:
        """A time before which other switches are certainly older."""
        return self.at - _CLOCKS_DIFFER if self.by_gateway else self.at


def read_ledger(instance: dg.DagsterInstance, spec: ModelSpec, limit: int = _LIMIT) -> list[Entry]:
    """Return the newest switches, newest first.

    A retried run records the same generation twice, for one switch. When the first attempt died
    before recording it, the second one found its own version in production already; the previous
    version is then the one before it in the ledger. A switch that was recorded late is moved to
    its place.
    """
    reports: list[SwitchReport[Entry]] = []
    # The first word about a switch says when it was.
    for made in reversed([*materializations(instance, spec.key("gateway_reload"), limit)]):
        report = _entry(made)
        identity = report.switch.identity
        if not any(identity.is_same(other.switch.identity) for other in reports):
            reports.append(report)
    entries = in_order(reversed(reports))
    # A confirmation after a change of traffic names that change's generation: it was no switch.
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
    """Return the best version that was ever in production; None where no promotion recorded one."""
    for made in materializations(instance, spec.key("gateway_reload"), _LIMIT):
        if BEST_VERSION in made.metadata:
            return int(made.metadata[BEST_VERSION])
    return None


def in_order(reports: Iterable[SwitchReport[_T]]) -> list[_T]:
    """Put late entries before what followed them; the rest stays newest first, as it was entered.

    Not by generation alone, since those begin anew when the gateways' state is lost, and not by
    time alone, since a run reports its switch a while after it, and clocks differ.
    """
    ordered: list[SwitchReport[_T]] = []
    for one in reversed([*reports]):
        place = 0
        for other in ordered:
            if other.generation <= one.generation or other.at < one.not_before:
                break
            place += 1
        ordered.insert(place, one)
    return [one.switch for one in ordered]


def _entry(made: Materialized) -> SwitchReport[Entry]:
    plain = made.metadata
    version, previous = int(plain["version"]), plain.get("previous_version")
    # The gateway's own time where there is one: a switch may be entered long after it.
    recorded = plain.get("at")
    at = datetime.fromisoformat(recorded) if recorded else made.at
    entry = Entry(
        at=at.astimezone(UTC).isoformat(timespec="seconds"),
        version=version,
        previous_version=previous if isinstance(previous, int) and previous != version else None,
        generation=int(plain.get("generation", 0)),
        action=str(plain.get("action", PROMOTION)),
        by=str(plain.get("by") or made.run_id),
        reason=str(plain.get("reason", "")),
        changed=bool(plain.get("changed", True)),
        missing=str(plain.get("missing", "")),
        chain=str(plain.get(CHAIN, "")),
    )
    return SwitchReport(entry, entry.generation, at, by_gateway=recorded is not None)


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
    """Render the ledger for programs."""
    return json.dumps([asdict(entry) for entry in entries], indent=2)
