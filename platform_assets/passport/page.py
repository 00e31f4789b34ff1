"""Render the passport as one HTML page; without I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from platform_assets.ledger.chain import LedgerEntry
from platform_assets.passport.document import GATES, Act, Fact, Passport, SealedPassport
from platform_assets.resources import pages

_UNSIGNED_NOTE: Final = (
    "The deployment has no key: entries are chained, but not signed, so who can write the file "
    "can write it anew as a whole."
)
_VERIFICATION_NOTE: Final = (
    "With --verify and the JSON file, python -m platform_assets.passport detects a changed byte of "
    "the model, and an entry that was removed, moved or edited."
)


def passport_page(sealed: SealedPassport) -> str:
    """Return the HTML page."""
    passport = sealed.passport
    title = f"{passport.model_name} version {passport.version}"
    facts = {name: value for name, value in passport.facts.items() if name != GATES}
    return pages.page(
        f"Passport: {title}",
        pages.headline(
            title,
            f"Signed with key {sealed.key}" if sealed.key else "Not signed",
            f"What was recorded until {_time(passport.made_at)} UTC, and where.",
            good=bool(sealed.key),
            more=pages.checklist(dict.fromkeys(passport.missing, False))
            if passport.missing
            else "",
        ),
        _periods(passport),
        *(_facts(section, recorded) for section, recorded in facts.items()),
        _gates(passport.facts.get(GATES, [])),
        _release(passport.release),
        _ledger(sealed),
    )


def _periods(passport: Passport) -> str:
    rows = [
        {
            "from (UTC)": _time(period.since),
            # Not "still": removing a model from the gateways makes no switch either.
            "until": "no later switch" if period.until is None else _time(period.until),
            "by": period.by,
            "why": period.why or period.action,
            "source": f"ledger, entry {period.entry}",
        }
        for period in passport.periods
    ]
    return pages.section(
        "In production", pages.table(rows) if rows else pages.paragraph("Never, by the ledger.")
    )


def _facts(section: str, facts: Sequence[Fact]) -> str:
    sources: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        sources.setdefault((fact.name, _text(fact.value)), []).append(fact.source)
    rows = [
        {"what": name, "value": value, "source": "; ".join(names)}
        for (name, value), names in sources.items()
    ]
    return pages.section(section, pages.table(rows))


def _gates(facts: Sequence[Fact]) -> str:
    # The ledger and Dagster record the same verdicts; prefer the ledger, which is signed.
    by_name = {fact.name: fact for fact in reversed(facts)}
    rows = [
        {
            "gate": fact.name,
            "passed": "yes" if fact.value.get("passed") else "no",
            "said": fact.value.get("description", ""),
            "measured": _measured(fact.value.get("measured", {})),
            "source": fact.source,
        }
        for fact in reversed(by_name.values())
    ]
    return pages.section(
        GATES, pages.table(rows) if rows else pages.paragraph("No verdict is recorded.")
    )


def _measured(values: Mapping[str, Any]) -> str:
    numbers = (
        (name, value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "version"
    )
    return ", ".join(f"{name} {value:.6g}" for name, value in numbers)


def _release(acts: Sequence[Act]) -> str:
    rows = [
        {
            "at (UTC)": _time(act.at),
            "verdict": act.content.get("verdict", ""),
            "then": act.content.get("state", ""),
            "why": act.content.get("reason") or act.content.get("description", ""),
            "source": act.source,
        }
        for act in acts
    ]
    if not rows:
        placeholder = pages.paragraph("No step, verdict or approval is recorded.")
        return pages.section("Release", placeholder)
    # Each entry repeats those before it.
    lines = (line for act in acts for line in str(act.content.get("acts", "")).splitlines())
    acts_text = "\n".join(dict.fromkeys(lines))
    parts = [pages.table(rows)]
    if acts_text:
        parts += [
            pages.paragraph("Verdicts and approvals, by whom"),
            pages.verbatim(acts_text, "acts"),
        ]
    return pages.section("Release", *parts)


def _ledger(sealed: SealedPassport) -> str:
    passport = sealed.passport
    rows = [_entry(entry) for entry in reversed(passport.ledger)]
    parts = [pages.paragraph(_VERIFICATION_NOTE if sealed.key else _UNSIGNED_NOTE, soft=True)]
    if rows:
        parts.append(pages.table(rows, "The whole chain of the model, the newest entry first"))
    if passport.public_keys:
        keys = pages.verbatim(passport.public_keys, "public keys")
        parts.append(pages.collapsible("Public keys of the deployment, the newest first", keys))
    parts.append(pages.definition_list({"SHA-256 of this passport": sealed.hash}))
    return pages.section("Ledger", *parts)


def _entry(entry: LedgerEntry) -> dict[str, object]:
    content = entry.content
    return {
        "entry": entry.number,
        "at (UTC)": _time(entry.at),
        "what": f"{entry.kind} {content.get('version', '')}".strip(),
        "why": content.get("reason") or content.get("note") or content.get("description", ""),
        "key": entry.key or "none",
        "hash": f"{entry.hash[:16]}...",
    }


def _time(at: str) -> str:
    return at.replace("T", " ").replace("+00:00", "").removesuffix("Z")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
