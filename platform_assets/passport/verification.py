"""Compare the current state with the ledger, the other records, and a passport."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from platform_assets.ledger.chain import LedgerEntry, parse_line
from platform_assets.ledger.journal import LedgerError
from platform_assets.ledger.verification import Anchor, Findings, verify_chain
from platform_assets.passport.document import DATA, DIGESTS, Passport, SealedPassport
from platform_assets.passport.making import Sources
from serving_gateway.contract import is_model_name

_COMPARED = (
    (DIGESTS, "model.onnx", "the SHA-256 of model.onnx"),
    (DIGESTS, "provenance.json", "the SHA-256 of provenance.json"),
    (DATA, "fingerprint", "the fingerprint of the data"),
)
_TRUST = ("ledger", "passport", "MLflow", "Dagster", "model repository")
"""Prefixes of sources, most trusted first: of two that differ, the earlier is the reference."""


def verify_version(
    sources: Sources, model_name: str, version: int, passport: Passport | None = None
) -> Findings:
    """Return the differences from the ledger and, with a `passport`, from that as well."""
    findings = Findings()
    try:
        journal = sources.journal(model_name)
        lines, rest = ([], b"") if journal is None else journal.lines()
    except LedgerError as error:
        return Findings(problems=[f"{error}."])
    records = sources.collect(_readable(lines), model_name, version)
    if passport is not None:
        records.anchors += [
            Anchor(entry.number, entry.hash, "the passport") for entry in passport.ledger
        ]
        for section, sealed_facts in passport.facts.items():
            records.facts.setdefault(section, []).extend(
                msgspec.structs.replace(fact, source=f"passport, {fact.source}")
                for fact in sealed_facts
            )
    if journal is None:
        findings.notes.append("There is no ledger here to compare with (LEDGER_DIR).")
    elif not lines and not records.anchors:
        findings.problems.append(f"The model {model_name} has no ledger at {journal.path}.")
    else:
        findings.add(verify_chain(lines, model_name, sources.key, records.anchors, rest))
    if not any(records.facts.values()) and not records.acts:
        findings.problems.append(f"Nothing is known of version {version} of {model_name}.")
    for section, name, what in _COMPARED:
        facts = records.facts.get(section, ())
        values = {fact.source: fact.value for fact in facts if fact.name == name}
        findings.problems += _differences(values, what)
    findings.notes += records.missing
    return findings


def verify_passport(sources: Sources, sealed: SealedPassport) -> Findings:
    """Return the faults of a passport, and the differences of the current state from it."""
    findings, passport, key = Findings(), sealed.passport, sources.key
    if not is_model_name(passport.model_name):
        return Findings(problems=["The passport was edited: it is of no model."])
    if not sealed.is_unchanged:
        findings.problems.append("The passport was edited: its content does not have its hash.")
    if not sealed.key:
        findings.notes.append("The passport is not signed: its deployment had no key.")
        if key.ids:
            findings.problems.append("The passport is not signed although there is a key.")
    elif sealed.key not in key.ids:
        trusted = ", ".join(key.ids) or "none: name it with --key or LEDGER_KEY"
        findings.problems.append(
            f"The passport is signed with another key ({sealed.key}) than the trusted ({trusted})."
        )
    elif not sealed.is_signed_by(key):
        findings.problems.append("The signature of the passport is not that of its key.")
    embedded = verify_chain([entry.line for entry in passport.ledger], passport.model_name, key)
    findings.problems += [f"In the passport: {problem}" for problem in embedded.problems]
    findings.add(verify_version(sources, passport.model_name, passport.version, passport))
    return findings


def _readable(lines: list[bytes]) -> list[LedgerEntry]:
    """Return the entries that can be parsed; the others are reported as problems separately."""
    entries = []
    for line in lines:
        with suppress(msgspec.MsgspecError):
            entries.append(parse_line(line))
    return entries


def _differences(values: dict[str, object], what: str) -> list[str]:
    if not values:
        return []
    ordered = sorted(
        values, key=lambda source: next(i for i, t in enumerate(_TRUST) if source.startswith(t))
    )
    first = ordered[0]
    return [
        f"By {source} {what} is {values[source]}, but by {first} it is {values[first]}: one of the "
        "two was changed."
        for source in ordered[1:]
        if values[source] != values[first]
    ]
