"""Entries of the ledger's chain: switches, and other acts that materializations report.

Nothing here fails: what moved has moved. What could not be entered is entered later, by
`enter_missing`; the metadata say which entry it is, or why it is not there yet.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict
from typing import Any, Final

import dagster as dg

from platform_assets.ledger.chain import RELEASE, SWITCH, LedgerEntry, switches_of
from platform_assets.ledger.journal import LedgerError
from platform_assets.ledger.keys import KeyFileError
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import Anchor
from platform_assets.model_spec import ModelSpec
from platform_assets.serving.ledger import CHAIN, read_ledger

ENTRY: Final = "ledger_entry"
"""Metadata key: the number of the entry."""
HASH: Final = "ledger_hash"
"""Metadata key: the hash of the entry."""
HEAD_TAG: Final = "serving.ledger"
"""Tag of a version in MLflow: number and hash of the entry of its last switch."""

_NOT_ENTERED: Final = "not entered yet"
_FAR_BACK: Final = 500
_RECENT: Final = 50
_LONGEST_TEXT: Final = 4000
_log = logging.getLogger(__name__)

Metadata = Mapping[str, str | int]


def enter(
    spec: ModelSpec,
    kind: str,
    content: Mapping[str, Any],
    folder: LedgerFolder,
    instance: dg.DagsterInstance,
    is_same: Callable[[LedgerEntry], bool] = lambda _: False,
) -> dict[str, str | int]:
    """Append an entry unless one that `is_same` is there; return metadata that name it."""
    try:
        journal, key = folder.journal(spec.model_name), folder.deployment_key()
        if journal is None:
            return {}
        entry = journal.append(
            kind,
            plain_content(content),
            key,
            is_same=is_same,
            before=lambda: _beginning(spec, instance),
        )
    except (LedgerError, KeyFileError) as error:
        _log.warning("the ledger of %s lacks an entry: %s", spec.model_name, error)
        return {CHAIN: f"{_NOT_ENTERED}: {error}"}
    signed = f"signed with key {entry.key}" if entry.key else "not signed: no LEDGER_KEY"
    return {CHAIN: f"entry {entry.number}, {signed}", ENTRY: entry.number, HASH: entry.hash}


def enter_switch(
    spec: ModelSpec,
    content: Mapping[str, Any],
    folder: LedgerFolder,
    instance: dg.DagsterInstance,
) -> dict[str, str | int]:
    """Append a switch, once: a run that is tried again, and the backfill, may tell of it too.

    `content` has at least `version`, `generation`, `changed` and `reason`.
    """
    return enter(
        spec,
        SWITCH,
        content,
        folder,
        instance,
        lambda entry: _contains_switch(entry, dict(content)),
    )


def with_entry(
    made: dg.AssetMaterialization,
    spec: ModelSpec,
    kind: str,
    folder: LedgerFolder,
    instance: dg.DagsterInstance,
    *,
    identity: str = "",
) -> dg.AssetMaterialization:
    """Return a materialization with the ledger's entry of it, made now, among its metadata.

    The entry holds the metadata, without pictures. With an `identity`, a materialization that is
    made again has the entry of the first.
    """
    content = {"description": made.description or "", **plain_metadata(made.metadata)}
    if identity:
        content["identity"] = identity
    entered = enter(
        spec,
        kind,
        content,
        folder,
        instance,
        lambda entry: bool(identity) and entry.content.get("identity") == identity,
    )
    return made.with_metadata({**made.metadata, **entered})


def enter_missing(spec: ModelSpec, folder: LedgerFolder, instance: dg.DagsterInstance) -> list[str]:
    """Enter what Dagster has and the chain lacks, oldest first; say what was done.

    A writer that could not write, or died before it, left these switches and acts of releases.
    """
    journal = folder.journal(spec.model_name)
    if journal is None:
        return []
    try:
        entries = journal.entries()
    except LedgerError as error:
        return [str(error)]
    known = {
        (switch.get("generation"), switch.get("version"))
        for entry in entries
        for switch in switches_of(entry)
    }
    said = []
    for entry in reversed(read_ledger(instance, spec)):
        if (entry.generation, entry.version) not in known:
            content = {**asdict(entry), "chain": "entered later"}
            entered = enter_switch(spec, content, folder, instance)
            said.append(f"generation {entry.generation}: {entered[CHAIN]}")
    if spec.release is None:
        return said
    identities = {str(entry.content.get("identity")) for entry in entries}
    return said + _enter_missing_acts(spec, folder, instance, identities)


def _enter_missing_acts(
    spec: ModelSpec, folder: LedgerFolder, instance: dg.DagsterInstance, known: Container[str]
) -> list[str]:
    """Enter what the pilot could not; `known` are the identities of the entries that are there."""
    key = dg.AssetKey(spec.key("release"))
    said = []
    for record in reversed(instance.fetch_materializations(key, limit=_RECENT).records):
        made, identity = record.asset_materialization, f"Dagster record {record.storage_id}"
        if made is None or identity in known:
            continue
        if str(plain_metadata(made.metadata).get(CHAIN, "")).startswith(_NOT_ENTERED):
            late = with_entry(made, spec, RELEASE, folder, instance, identity=identity)
            said.append(f"release: {plain_metadata(late.metadata)[CHAIN]}")
    return said


def anchors(metadata: Mapping[str, Any], source: str) -> list[Anchor]:
    """Return what metadata of `enter` say of an entry; nothing where they name none."""
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


def _beginning(spec: ModelSpec, instance: dg.DagsterInstance) -> dict[str, Any] | None:
    older = read_ledger(instance, spec, limit=_FAR_BACK)
    if not older:
        return None
    return {
        "note": "The chain begins here. The switches below are older: they are what Dagster's "
        "records said at this time, which nothing protected until now.",
        "switches": plain_content([asdict(entry) for entry in reversed(older)]),
    }


def _contains_switch(entry: LedgerEntry, switch: Mapping[str, Any]) -> bool:
    # By its reason, which names the run, since generations begin anew when the gateways' state is
    # lost. A confirmation has a reason of its own.
    return any(
        (one.get("generation"), one.get("version")) == (switch["generation"], switch["version"])
        and (
            one.get("reason") == switch["reason"]
            or not (one.get("changed", True) and switch["changed"])
        )
        for one in switches_of(entry)
    )
