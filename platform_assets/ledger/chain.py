"""Entries of the ledger: each holds the hash of the one before it, and a signature. Without I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from platform_assets.ledger.keys import DeploymentKey

SWITCH: Final = "switch"
"""Kind of an entry: production was switched, or confirmed where it is."""
RELEASE: Final = "release"
"""Kind of an entry: a verdict, an approval or the end of a release."""
BEGINNING: Final = "beginning"
"""Kind of the first entry of a ledger that is older than its chain."""

_PURPOSE: Final = "entry"
_SEALS: Final = ("hash", "signature")


class LedgerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a model's ledger."""

    model_name: str
    number: int
    """1 for the first entry of the model, then increasing by one."""
    previous: str
    """Hash of the previous entry; empty for the first."""
    at: str
    """When it was written: RFC 3339, in UTC."""
    kind: str
    content: dict[str, Any]
    key: str
    """Id of the key that signed it; empty where the deployment had none."""
    hash: str
    """SHA-256, in hexadecimal, of the canonical JSON of all fields but the last two."""
    signature: str
    """Ed25519 over that hash, in hexadecimal; empty without a key."""

    @property
    def line(self) -> bytes:
        """The entry as stored in the file, without the line end."""
        return canonical(msgspec.to_builtins(self))

    @property
    def expected_hash(self) -> str:
        """The hash of its content."""
        return body_hash({k: v for k, v in msgspec.to_builtins(self).items() if k not in _SEALS})

    def is_signed_by(self, key: DeploymentKey) -> bool:
        """Whether the signature is by the public key of `key` that the entry names."""
        return key.verify(self.key, _PURPOSE, self.hash, self.signature)


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON text of a value: ASCII, names sorted, without spaces.

    Raises:
        ValueError: the value holds a number that is not finite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def body_hash(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def next_entry(
    model_name: str,
    last: LedgerEntry | None,
    kind: str,
    content: Mapping[str, Any],
    key: DeploymentKey,
    at: str,
) -> LedgerEntry:
    """Return the entry that follows `last`, signed if `key` can sign."""
    body = {
        "model_name": model_name,
        "number": 1 if last is None else last.number + 1,
        "previous": "" if last is None else last.hash,
        "at": at,
        "kind": kind,
        "content": dict(content),
        "key": key.signing_id,
    }
    digest = body_hash(body)
    sealed = {**body, "hash": digest, "signature": key.sign(_PURPOSE, digest)}
    # Via its text, to return exactly what a reader of the file gets.
    return parse_line(canonical(sealed))


def parse_line(line: bytes) -> LedgerEntry:
    """Parse a line to an entry.

    Raises:
        msgspec.MsgspecError: the line is not an entry.
    """
    try:
        return msgspec.json.decode(line, type=LedgerEntry)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error


def switches_of(entry: LedgerEntry) -> list[dict[str, Any]]:
    """Return the contents of an entry that describe switches.

    An edited file may hold anything there, which verification reports; here it is ignored, so
    that it prevents neither verification nor the next entry.
    """
    contents: object = [entry.content] if entry.kind == SWITCH else []
    if entry.kind == BEGINNING:
        contents = entry.content.get("switches")
    return (
        [content for content in contents if isinstance(content, dict)]
        if isinstance(contents, list)
        else []
    )
