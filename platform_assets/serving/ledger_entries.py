"""Entries of the ledger's chain: switches, and other acts that materializations report.

Nothing here fails: what moved has moved. What could not be entered is entered later, by
`LedgerWriter.enter_missing`; the metadata say which entry it is, or why it is not there yet.
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
    """Enters what happens to one model into the chain in `folder`."""

    spec: ModelSpec
    folder: LedgerFolder
    instance: dg.DagsterInstance

    def enter_switch(self, content: Mapping[str, Any]) -> dict[str, str | int]:
        """Append a switch, once: a run that is tried again, and the backfill, may tell of it too.

        `content` has at least `version`, `generation`, `changed` and `reason`. Returns metadata
        that name the entry.
        """
        return self._enter(SWITCH, content, lambda entry: _contains_switch(entry, content))

    def with_act(self, made: dg.AssetMaterialization, identity: str) -> dg.AssetMaterialization:
        """Return an act of a release with the ledger's entry of it, made now, among its metadata.

        The entry holds the metadata, without pictures. An act of the same `identity` that is made
        again has the entry of the first.
        """
        content = {
            "description": made.description or "",
            **plain_metadata(made.metadata),
            "identity": identity,
        }
        entered = self._enter(
            RELEASE, content, lambda entry: entry.content.get("identity") == identity
        )
        return made.with_metadata({**made.metadata, **entered})

    def enter_missing(self) -> list[str]:
        """Enter what Dagster has and the chain lacks, oldest first; say what was done.

        A writer that could not write, or died before it, left these switches and acts of releases.
        """
        journal = self.folder.journal(self.spec.model_name)
        if journal is None:
            return []
        try:
            entries = journal.entries()
        except LedgerError as error:
            return [str(error)]
        known = [_identity(switch) for entry in entries for switch in switches_of(entry)]
        said = []
        for entry in reversed(read_ledger(self.instance, self.spec)):
            if not any(entry.identity.is_same(other) for other in known):
                entered = self.enter_switch({**asdict(entry), "chain": "entered later"})
                said.append(f"generation {entry.generation}: {entered[CHAIN]}")
        if self.spec.release is None:
            return said
        return said + self._enter_missing_acts(
            {str(entry.content.get("identity")) for entry in entries}
        )

    def _enter_missing_acts(self, known: Container[str]) -> list[str]:
        """Enter what the pilot could not; `known` are the identities of the entries there are."""
        key = dg.AssetKey(self.spec.key("release"))
        said = []
        for record in reversed(self.instance.fetch_materializations(key, limit=_RECENT).records):
            made, identity = record.asset_materialization, f"Dagster record {record.storage_id}"
            if made is None or identity in known:
                continue
            if str(plain_metadata(made.metadata).get(CHAIN, "")).startswith(_NOT_ENTERED):
                late = self.with_act(made, identity)
                said.append(f"release: {plain_metadata(late.metadata)[CHAIN]}")
        return said

    def _enter(
        self, kind: str, content: Mapping[str, Any], is_same: Callable[[LedgerEntry], bool]
    ) -> dict[str, str | int]:
        """Append an entry unless one that `is_same` is there; return metadata that name it."""
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
    """Return what metadata of `LedgerWriter` say of an entry; nothing where they name none."""
    if isinstance(metadata.get(ENTRY), int) and metadata.get(HASH):
        return [Anchor(metadata[ENTRY], str(metadata[HASH]), source)]
    return []


def head_tags(entered: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a version that stand for an entry."""
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
    """Return a value as the canonical JSON takes it; numbers that are not finite become texts."""
    if isinstance(value, Mapping):
        return {str(name): plain_content(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_content(one) for one in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = str(value)
    half = _LONGEST_TEXT // 2
    # Of the acts of a release the newest, at the end, is in no entry before.
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
    return any(identity.is_same(_identity(one)) for one in switches_of(entry))
