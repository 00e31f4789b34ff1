"""The records of a version, and its passport: facts with their sources, sealed by a key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from platform_assets.ledger.chain import LedgerEntry, body_hash
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.ledger.verification import Anchor
from platform_assets.serving.ledger_entries import plain_content

FORMAT: Final = "readygate passport 1"
_PURPOSE: Final = "passport"

DATA: Final = "Data"
CODE: Final = "Code"
TRAINING: Final = "Training"
GATES: Final = "Gates"
DIGESTS: Final = "Digests"
SECTIONS: Final = (DATA, CODE, TRAINING, GATES, DIGESTS)


class Fact(msgspec.Struct, frozen=True):
    """A recorded property of a version."""

    name: str
    value: Any
    source: str
    """Where it is recorded, such as `ledger, entry 3`."""


class Period(msgspec.Struct, frozen=True, rename={"since": "from"}):
    """A period in production; times are RFC 3339 in UTC."""

    since: str
    until: str | None
    """None if the ledger has no later switch; removing a model is not a switch."""
    action: str
    by: str
    why: str
    entry: int
    """Number of the ledger's entry that began it."""


class Act(msgspec.Struct, frozen=True):
    """A verdict or an approval of a release."""

    at: str
    content: dict[str, Any]
    source: str


@dataclass(slots=True)
class VersionRecords:
    """Facts by section, acts of its releases, sentences on missing records, and ledger anchors."""

    facts: dict[str, list[Fact]] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)

    def add(self, source: str, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Add the facts of a source by section, without values that are None or empty."""
        for section, values in sections.items():
            self.facts.setdefault(section, []).extend(
                Fact(name, plain_content(value), source)
                for name, value in values.items()
                if value is not None and value not in ("", {}, [])
            )


def digest_facts(package: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in a result of `package_digests`, of a switch or of now."""
    return {
        "model.onnx": package.get("onnx_sha256"),
        "provenance.json": package.get("provenance_sha256"),
        "packaged by": package.get("packaged_by"),
    }


def parse_json(text: object) -> Any:
    """Return the value of a JSON text; invalid JSON unchanged, and None for an empty text."""
    try:
        return json.loads(str(text)) if text else None
    except (ValueError, RecursionError):
        return str(text)


def merge(parts: Iterable[VersionRecords]) -> VersionRecords:
    """Return the records of several sources together."""
    result = VersionRecords()
    for part in parts:
        for section, facts in part.facts.items():
            result.facts.setdefault(section, []).extend(facts)
        result.acts += part.acts
        result.missing += part.missing
        result.anchors += part.anchors
    return result


class Passport(msgspec.Struct, frozen=True):
    """Everything known about one version at one time."""

    format: str
    model_name: str
    version: int
    made_at: str
    """RFC 3339, in UTC."""
    facts: dict[str, list[Fact]]
    """By section; a fact appears once for each source that has it."""
    periods: list[Period]
    release: list[Act]
    missing: list[str]
    """Sources that could not be read, and records that were never made."""
    public_keys: str
    """PEM of the deployment's keys, newest first; empty if it has none."""
    ledger: list[LedgerEntry]
    """The whole chain of the model at that time."""

    def values(self, section: str, name: str) -> dict[str, Any]:
        """Return the value of a fact by source."""
        facts = self.facts.get(section, ())
        return {fact.source: fact.value for fact in facts if fact.name == name}


class SealedPassport(msgspec.Struct, frozen=True):
    """The content of the JSON file."""

    passport: Passport
    hash: str
    """SHA-256, in hexadecimal, of the passport's canonical JSON."""
    key: str
    signature: str
    """Ed25519 over the hash; empty, like the key's id, if the deployment has no key."""

    @property
    def is_unchanged(self) -> bool:
        """Whether the content still has the recorded hash."""
        return self.hash == body_hash(msgspec.to_builtins(self.passport))

    def is_signed_by(self, key: DeploymentKey) -> bool:
        """Whether the named public key, one of those in `key`, verifies the signature."""
        return key.verify(self.key, _PURPOSE, self.hash, self.signature)


def seal(passport: Passport, key: DeploymentKey) -> SealedPassport:
    """Return the passport with its hash, signed if `key` can sign."""
    digest = body_hash(msgspec.to_builtins(passport))
    return SealedPassport(passport, digest, key.signing_id, key.sign(_PURPOSE, digest))


def encode(sealed: SealedPassport) -> bytes:
    """Return the JSON file."""
    return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"


def decode(data: bytes) -> SealedPassport:
    """Read the JSON file.

    Raises:
        msgspec.MsgspecError: it is not a passport, or contains unsealed data.
    """
    try:
        sealed = msgspec.json.decode(data, type=SealedPassport)
        document = json.loads(data, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    if document != msgspec.to_builtins(sealed):
        raise msgspec.ValidationError("something was added to it")
    return sealed


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise msgspec.ValidationError("a name stands twice in it")
    return mapping
