"""The records of one version, as its sources have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from platform_assets.ledger.verification import Anchor
from platform_assets.passport.document import Act, Fact
from platform_assets.serving.ledger_entries import plain_content


@dataclass(slots=True)
class VersionRecords:
    """Facts by section, acts of its releases, sentences on missing records, and ledger anchors."""

    facts: dict[str, list[Fact]] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)

    def add(self, section: str, source: str, values: Mapping[str, Any]) -> None:
        """Add the values that are recorded: neither None nor empty."""
        self.facts.setdefault(section, []).extend(
            Fact(name, plain_content(value), source)
            for name, value in values.items()
            if value is not None and value not in ("", {}, [])
        )


def merge(parts: Iterable[VersionRecords]) -> VersionRecords:
    """Return the records of several sources together."""
    result = VersionRecords()
    for one in parts:
        for section, facts in one.facts.items():
            result.facts.setdefault(section, []).extend(facts)
        result.acts += one.acts
        result.missing += one.missing
        result.anchors += one.anchors
    return result
