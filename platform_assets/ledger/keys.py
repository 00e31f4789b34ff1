"""The deployment's key: an Ed25519 key that signs, and the public keys of its predecessors.

The cryptography library takes a quarter of a second to import, so it is imported on use.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)
_CONTEXT: Final = "readygate ledger"
"""Prefix of everything that is signed, so that a signature has only one meaning."""
_ID_LENGTH: Final = 16
_REMEDY: Final = "make one with `openssl genpkey -algorithm ed25519`"


class KeyFileError(Exception):
    """The key cannot be read; the message names the remedy, and reveals no private key."""


@dataclass(frozen=True, slots=True)
class DeploymentKey:
    """A deployment's private key, if any, and the trusted public keys."""

    private: Ed25519PrivateKey | None = None
    public: tuple[Ed25519PublicKey, ...] = ()
    """Newest first; keys after the first are only trusted for old signatures."""

    @property
    def signing_id(self) -> str:
        """Id of the signing key; empty without one."""
        return "" if self.private is None else key_id(self.private.public_key())

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the public keys, newest first."""
        return tuple(map(key_id, self.public))

    @property
    def public_pem(self) -> str:
        """The public keys as PEM, newest first; empty without any."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        form = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        return "".join(key.public_bytes(*form).decode() for key in self.public)

    def sign(self, purpose: str, digest: str) -> str:
        """Return the signature of a digest, in hexadecimal; empty without a private key."""
        if self.private is None:
            return ""
        return self.private.sign(_signed_text(purpose, digest)).hex()

    def verify(self, signer: str, purpose: str, digest: str, signature: str) -> bool:
        """Whether the public key with the id `signer` made this signature."""
        from cryptography.exceptions import InvalidSignature

        for key in self.public:
            if key_id(key) == signer:
                try:
                    key.verify(bytes.fromhex(signature), _signed_text(purpose, digest))
                except (InvalidSignature, ValueError):
                    return False
                return True
        return False


def _signed_text(purpose: str, digest: str) -> bytes:
    return f"{_CONTEXT} {purpose} {digest}".encode()


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a key in entries: the beginning of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_ID_LENGTH]


def new_private_key() -> str:
    """Return a new private key as PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(*form).decode()


def read_key(value: str) -> DeploymentKey:
    """Return the key in `value`, a path or PEM; without a value, one that cannot sign.

    The PEM holds at most one private key, and any number of public ones: its predecessors,
    newest first, or, without a private key, all trusted ones.

    Raises:
        KeyFileError: the file cannot be read, or holds something else.
    """
    if not value.strip():
        return DeploymentKey()
    blocks = [(match[1], match[0].encode()) for match in _BLOCK.finditer(_pem(value))]
    if not blocks:
        raise KeyFileError(f"the ledger's key (LEDGER_KEY) is not PEM: {_REMEDY}")
    keys = [_parse(label, block) for label, block in blocks]
    private = [key for key, _ in keys if key is not None]
    if len(private) > 1:
        raise KeyFileError(
            "the ledger's key holds several private keys: keep the newest, and of those that it "
            "replaced the public ones"
        )
    public = sorted(keys, key=lambda pair: pair[0] is None)  # the signing key is the newest
    return DeploymentKey(private[0] if private else None, tuple(key for _, key in public))


def _parse(label: str, block: bytes) -> tuple[Ed25519PrivateKey | None, Ed25519PublicKey]:
    """Return the private key, if the block is one, and the public key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_pem_public_key,
    )

    try:
        key = (
            load_pem_public_key(block)
            if label == "PUBLIC KEY"
            else load_pem_private_key(block, None)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's message may contain bytes of a private key.
        raise KeyFileError(f"a {label} of the ledger's key is not valid: {_REMEDY}") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key, key.public_key()
    if isinstance(key, ed25519.Ed25519PublicKey):
        return None, key
    raise KeyFileError(f"a {label} of the ledger's key is not Ed25519: {_REMEDY}")


def _pem(value: str) -> str:
    if "-----BEGIN" in value:
        return value
    try:
        return Path(value).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the ledger's key cannot be read: {error}") from error
