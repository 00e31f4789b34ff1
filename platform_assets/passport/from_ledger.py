"""The records of a version in the ledger; without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from platform_assets.ledger.chain import RELEASE, LedgerEntry, switches_of
from platform_assets.passport.document import (
    CODE,
    DATA,
    DIGESTS,
    GATES,
    TRAINING,
    Act,
    Period,
    VersionRecords,
    digest_facts,
    parse_json,
)
from platform_assets.serving.ledger import SwitchReport, order_reports


class _Move(NamedTuple):
    """A switch of production as recorded by the ledger."""

    at: str
    version: int
    content: dict[str, Any]
    entry: int


class _Verdict(msgspec.Struct):
    """A verdict of a gate."""

    passed: bool = False
    description: str = ""
    measured: dict[str, Any] = {}


class _Switch(msgspec.Struct):
    """The shape that readable content of a switch has; an edited file may contain anything."""

    version: int
    generation: int = 0
    at: datetime | None = None
    gates: dict[str, _Verdict] | None = None
    package: dict[str, Any] | None = None


def collect_from_ledger(entries: Sequence[LedgerEntry], version: int) -> VersionRecords:
    """Return the facts in the ledger entries of a version; those of its first switch count."""
    records = VersionRecords()
    readable = _moves(entries)
    moves = [move for move in readable if move.version == version]
    if left_out := sum(len(switches_of(entry)) for entry in entries) - len(readable):
        records.missing.append(f"{left_out} switches of the ledger cannot be read: verify it.")
    if not entries:
        records.missing.append("The ledger of this model has no entries (LEDGER_DIR).")
    elif not moves:
        records.missing.append("The ledger knows no time of this version in production.")
    # An old ledger begins with switches without digests; later ones may lack them because the
    # version was damaged when it was switched to.
    by_digest = sorted(
        moves, key=lambda move: "onnx_sha256" not in (move.content.get("package") or {})
    )
    for move in by_digest[:1]:
        _add_switch(records, move)
    for judged in [move for move in moves if move.content.get("gates")][:1]:
        records.add(f"ledger, entry {judged.entry}", {GATES: judged.content["gates"]})
    if moves and GATES not in records.facts:
        records.missing.append("The ledger holds no verdicts of the gates for this version.")
    records.acts = [
        Act(entry.at, entry.content, f"ledger, entry {entry.number}")
        for entry in entries
        if entry.kind == RELEASE and entry.content.get("version") == version
    ]
    return records


def periods(entries: Sequence[LedgerEntry], version: int) -> list[Period]:
    """Return the periods of a version in production, oldest first."""
    result: list[Period] = []
    moves = _moves(entries)
    for place, move in enumerate(moves):
        if move.version != version or (place and moves[place - 1].version == version):
            continue  # a confirmation continues the current period
        ends = (later.at for later in moves[place + 1 :] if later.version != version)
        text = {name: str(move.content.get(name) or "") for name in ("action", "by", "reason")}
        result.append(
            Period(
                move.at, next(ends, None), text["action"], text["by"], text["reason"], move.entry
            )
        )
    return result


def _moves(entries: Sequence[LedgerEntry]) -> list[_Move]:
    """Return all readable switches in the order in which they happened; some are entered late."""
    reports: list[SwitchReport[_Move]] = []
    for entry in entries:
        for content in switches_of(entry):
            try:
                switch = msgspec.convert(content, _Switch)
                at = switch.at or msgspec.convert(entry.at, datetime)
            except msgspec.ValidationError:
                continue
            move = _Move(str(content.get("at") or entry.at), switch.version, content, entry.number)
            reports.append(
                SwitchReport(move, switch.generation, at.astimezone(UTC), switch.at is not None)
            )
    return order_reports(reversed(reports))[::-1]


def _add_switch(records: VersionRecords, move: _Move) -> None:
    content = move.content
    package = content.get("package") or {}
    records.add(
        f"ledger, entry {move.entry}",
        {
            DATA: {
                "fingerprint": package.get("data_fingerprint"),
                "split": parse_json(package.get("split")),
            },
            CODE: {name: content.get(name) for name in ("code_version", "feature_contract")},
            TRAINING: {
                "MLflow run": content.get("run_id"),
                "Dagster run of the switch": content.get("dagster_run"),
            },
            DIGESTS: digest_facts(package),
        },
    )
    if "problem" in package:
        records.missing.append(f"At its switch no digest was taken: {package['problem']}.")
