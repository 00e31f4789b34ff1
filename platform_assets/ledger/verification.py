"""Verify that a ledger is unchanged: nothing removed, moved, edited or signed differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from platform_assets.ledger.chain import LedgerEntry, parse_line
from platform_assets.ledger.keys import DeploymentKey


@dataclass(frozen=True, slots=True)
class Anchor:
    """Another store's record of an entry: its number and hash."""

    number: int
    hash: str
    source: str
    """Where the record is kept, as in `MLflow's tag of version 3`."""


@dataclass(slots=True)
class Findings:
    """The results of a verification, in sentences."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Limits of the proof that are not errors."""

    def add(self, other: Findings) -> None:
        """Add the results of another verification."""
        self.problems += other.problems
        self.notes += other.notes


def verify_chain(
    lines: Sequence[bytes],
    model_name: str,
    key: DeploymentKey,
    anchors: Iterable[Anchor] = (),
    rest: bytes = b"",
) -> Findings:
    """Check each line of a model's ledger against its neighbours, its signature and the anchors.

    `rest` is what follows the last complete line.
    """
    findings = Findings()
    entries: list[LedgerEntry] = []
    for place, line in enumerate(lines, 1):
        try:
            entry = parse_line(line)
        except msgspec.MsgspecError as error:
            findings.problems.append(f"Line {place} was edited: it is not an entry ({error}).")
            continue
        findings.problems += _own_problems(entry, line, model_name)
        findings.problems += _order_problems(entry, entries[-1] if entries else None)
        entries.append(entry)
    findings.add(_verify_signatures(entries, key))
    findings.problems += _anchor_problems(entries, anchors)
    if rest:
        findings.notes.append(
            f"The last {len(rest)} bytes are an entry that was not finished, because its writer "
            "died; the next entry replaces them."
        )
    return findings


def _own_problems(entry: LedgerEntry, line: bytes, model_name: str) -> list[str]:
    problems = []
    if entry.expected_hash != entry.hash or entry.line != line:
        problems.append(f"Entry {entry.number} was edited: its content does not have its hash.")
    if entry.model_name != model_name:
        problems.append(f"Entry {entry.number} is of the model {entry.model_name}.")
    return problems


def _order_problems(entry: LedgerEntry, last: LedgerEntry | None) -> list[str]:
    expected = 1 if last is None else last.number + 1
    if entry.number > expected:
        which = f"{expected}" if entry.number == expected + 1 else f"{expected}-{entry.number - 1}"
        return [f"Entry {which} was removed or moved: entry {entry.number} stands in its place."]
    if entry.number < expected:
        return [f"Entry {entry.number} was moved or repeated: it stands after {expected - 1}."]
    if entry.previous != ("" if last is None else last.hash):
        return [
            f"Entry {entry.number} does not follow the entry before it: one of the two was "
            "replaced, or an entry was removed."
        ]
    return []


def _verify_signatures(entries: Sequence[LedgerEntry], key: DeploymentKey) -> Findings:
    findings, ages = Findings(), {id_: key.ids.index(id_) for id_ in key.ids}  # each once, or more
    newest: int | None = None
    unsigned: list[int] = []
    for entry in entries:
        if not entry.key:
            if newest is not None:
                findings.problems.append(f"Entry {entry.number} is not signed; earlier ones are.")
            else:
                unsigned.append(entry.number)
            continue
        if entry.key not in ages:
            findings.problems.append(
                f"Entry {entry.number} is signed with another key ({entry.key}) than the trusted "
                f"({', '.join(ages) or 'none: name it with --key or LEDGER_KEY'})."
            )
        elif not entry.is_signed_by(key):
            findings.problems.append(
                f"The signature of entry {entry.number} is not that of its key."
            )
        elif newest is not None and ages[entry.key] > newest:
            findings.problems.append(
                f"Entry {entry.number} is signed with the key {entry.key} after it was replaced."
            )
        newest = min(ages.get(entry.key, len(ages)), len(ages) if newest is None else newest)
    which = f"Entries 1 to {unsigned[-1]} are" if len(unsigned) > 1 else "Entry 1 is"
    if unsigned and newest is not None:
        findings.notes.append(
            f"{which} not signed; the first signed entry covers them by its hash."
        )
    elif unsigned and ages:
        findings.problems.append(
            f"{which} not signed although there is a key. If the deployment has it only since "
            "then, its next entry covers them."
        )
    elif unsigned:
        findings.notes.append(
            f"{which} chained but not signed, since this deployment has no key (LEDGER_KEY): who "
            "can write the file can write it anew as a whole."
        )
    return findings


def _anchor_problems(entries: Sequence[LedgerEntry], anchors: Iterable[Anchor]) -> list[str]:
    hashes = {entry.number: entry.hash for entry in entries}
    last = max(hashes, default=0)
    problems = []
    for anchor in anchors:
        if anchor.number > last:
            problems.append(
                f"The ledger ends with entry {last}, but {anchor.source} knows entry "
                f"{anchor.number}: the end was cut off."
            )
        elif hashes.get(anchor.number, anchor.hash) != anchor.hash:
            problems.append(
                f"Entry {anchor.number} has another hash than {anchor.source} knows: it was "
                "replaced."
            )
    return problems
