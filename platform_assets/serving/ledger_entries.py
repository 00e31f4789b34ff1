"""Entries of the ledger's chain: switches, and other acts that materializations report.

No failure to write is raised, since the switch has already happened. Missing entries are added
later by `LedgerWriter.enter_missing`; the metadata name the entry, or say why there is none yet.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import dagster as dg

from platform_assets.ledger.chain import RELEASE, SWITCH, LedgerEntry, switches_of
from platform_assets.ledger.journal import LedgerError
from platform_assets.ledger.keys import KeyFileError
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import Anchor
from platform_assets.model_spec import ModelSpec
from platform_assets.serving.ledger import CHAIN, MOST_SWITCHES, SwitchIdentity, read_ledger

ENTRY: Final = "ledger_entry"
"""Metadata key: the number of the entry."""
HASH: Final = "ledger_hash"
"""Metadata key: the hash of the entry."""
HEAD_TAG: Final = "serving.ledger"
"""Tag of a version in MLflow: number and hash of the entry of its last switch."""

_NOT_ENTERED: Final = "not entered yet"
_RECENT: Final = 50
_LONGEST_TEXT: Final = 4000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerWriter:
    """Enters the switches and acts of releases of one model into the chain in `folder`."""

    spec: ModelSpec
    folder: LedgerFolder
    instance: dg.DagsterInstance

    def enter_switch(self, content: Mapping[str, Any]) -> dict[str, str | int]:
        """Append a switch once, although a retried run and the backfill may report it again.

        `content` has at least `version`, `generation`, `changed` and `reason`. Returns metadata
        that name the entry.
        """
        return self._enter(SWITCH, content, lambda entry: _contains_switch(entry, content))

    def enter_act(self, act: dg.AssetMaterialization, identity: str) -> dg.AssetMaterialization:
        """Enter an act of a release, and return it with metadata that name the entry.

        The entry holds the act's metadata, without pictures. A repeated act with the same
        `identity` gets the entry of the first.
        """
        content = {
            "description": act.description or "",
            **plain_metadata(act.metadata),
            "identity": identity,
        }
        entered = self._enter(
            RELEASE, content, lambda entry: entry.content.get("identity") == identity
        )
        return act.with_metadata({**act.metadata, **entered})

    def enter_missing(self) -> list[str]:
        """Enter what Dagster has and the chain lacks, oldest first; return a line for each.

        These are switches and acts of releases whose writer failed or died.
        """
        journal = self.folder.journal(self.spec.model_name)
        if journal is None:
            return []
        try:
            entries = journal.entries()
        except LedgerError as error:
            return [str(error)]
        known = [_identity(switch) for entry in entries for switch in switches_of(entry)]
        known.reverse()  # what is looked for is among the newest
        lines = []
        for entry in reversed(read_ledger(self.instance, self.spec)):
            identity = entry.identity
            if not any(identity.is_same(other) for other in known):
                entered = self.enter_switch({**asdict(entry), "chain": "entered later"})
                lines.append(f"generation {entry.generation}: {entered[CHAIN]}")
        if self.spec.release is None:
            return lines
        return lines + self._enter_missing_acts(
            {str(entry.content.get("identity")) for entry in entries}
        )

    def _enter_missing_acts(self, known: Container[str]) -> list[str]:
        """Enter acts that the pilot could not; `known` are the identities of existing entries."""
        key = dg.AssetKey(self.spec.key("release"))
        lines = []
        for record in reversed(self.instance.fetch_materializations(key, limit=_RECENT).records):
            act, identity = record.asset_materialization, f"Dagster record {record.storage_id}"
            if act is None or identity in known:
                continue
            if str(plain_metadata(act.metadata).get(CHAIN, "")).startswith(_NOT_ENTERED):
                late = self.enter_act(act, identity)
                lines.append(f"release: {plain_metadata(late.metadata)[CHAIN]}")
        return lines

    def _enter(
        self, kind: str, content: Mapping[str, Any], is_same: Callable[[LedgerEntry], bool]
    ) -> dict[str, str | int]:
        """Append an entry unless one satisfies `is_same`; return metadata that name the entry."""
        name = self.spec.model_name
        try:
            journal, key = self.folder.journal(name), self.folder.deployment_key()
            if journal is None:
                return {}
            entry = journal.append(
                kind, plain_content(content), key, is_same=is_same, before=self._beginning
            )
        except (LedgerError, KeyFileError) as error:
            _log.warning("the ledger of %s lacks an entry: %s", name, error)
            return {CHAIN: f"{_NOT_ENTERED}: {error}"}
        signed = f"signed with key {entry.key}" if entry.key else "not signed: no LEDGER_KEY"
        return {CHAIN: f"entry {entry.number}, {signed}", ENTRY: entry.number, HASH: entry.hash}

    def _beginning(self) -> dict[str, Any] | None:
        older = read_ledger(self.instance, self.spec, limit=MOST_SWITCHES)
        if not older:
            return None
        return {
            "note": "The chain begins here. The switches below are older: they are what Dagster's "
            "records said at this time, which nothing protected until now.",
            "switches": plain_content([asdict(entry) for entry in reversed(older)]),
        }


def anchors(metadata: Mapping[str, Any], source: str) -> list[Anchor]:
    """Return the anchor in metadata of `LedgerWriter`; an empty list if they name no entry."""
    if isinstance(metadata.get(ENTRY), int) and metadata.get(HASH):
        return [Anchor(metadata[ENTRY], str(metadata[HASH]), source)]
    return []


def head_tags(entered: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags by which a version in MLflow refers to a ledger entry."""
    return {HEAD_TAG: f"{entered[ENTRY]} {entered[HASH]}"} if ENTRY in entered else {}


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of Dagster's metadata that are texts, numbers, lists and mappings."""
    values = {name: getattr(value, "value", value) for name, value in metadata.items()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | dict | list | None)
        and not (isinstance(value, str) and "data:image/" in value)
    }


def plain_content(value: Any) -> Any:
    """Return a value in the form that canonical JSON accepts; non-finite numbers become texts."""
    if isinstance(value, Mapping):
        return {str(name): plain_content(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_content(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = str(value)
    half = _LONGEST_TEXT // 2
    # The newest act of a release is at the end, and is in no earlier entry.
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} ... {text[-half:]}"


def _identity(switch: Mapping[str, Any]) -> SwitchIdentity:
    return SwitchIdentity(
        switch.get("generation", 0),
        switch.get("version", 0),
        str(switch.get("reason") or ""),
        str(switch.get("at") or ""),
        bool(switch.get("changed", True)),
    )


def _contains_switch(entry: LedgerEntry, switch: Mapping[str, Any]) -> bool:
    identity = _identity(switch)
    return any(identity.is_same(_identity(other)) for other in switches_of(entry))
