"""Who may change what is served, and who may ask for predictions."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from serving_gateway.errors import Forbidden, Unauthenticated

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip")


class ControlGuard:
    """Lets control calls pass by bearer token or, when none is configured, from loopback.

    Args:
        token: the token, if one is configured.
    """

    def __init__(self, token: SecretStr | None) -> None:
        self._token = None if token is None else token.get_secret_value().encode()

    def admit(self, peer: str | None, headers: Mapping[str, str]) -> str:
        """Return who asks, for the record.

        Args:
            peer: address of the other end of the connection.
            headers: of the request, with lower-case names.

        Raises:
            Unauthenticated: a token is configured and was not given.
            Forbidden: none is configured and the call is not surely made on this host.
        """
        if self._token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
                raise Unauthenticated(
                    "This endpoint changes what is served and needs the header "
                    "'Authorization: Bearer <GATEWAY_CONTROL_TOKEN>'. Nothing was changed."
                )
            return "token"
        if not is_loopback(peer):
            raise Forbidden(
                "No GATEWAY_CONTROL_TOKEN is configured, so this endpoint answers calls from "
                "this host only. Nothing was changed."
            )
        # A proxy on this host makes everybody's calls look local, and so does a web page in a
        # browser on this host: neither may switch production.
        if any(name in headers for name in _FORWARDED):
            raise Forbidden(
                "The call came through a proxy; configure GATEWAY_CONTROL_TOKEN to allow that. "
                "Nothing was changed."
            )
        origin = headers.get("origin")
        if origin is not None and not is_loopback(_host(origin)):
            raise Forbidden(
                f"The call was made by a web page of {origin}; configure GATEWAY_CONTROL_TOKEN "
                "to allow that. Nothing was changed."
            )
        return "loopback"


class DataGuard:
    """Lets predictions pass by API key; all of them when no key is configured.

    Args:
        keys: any one of which will do.
    """

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        # Looking up a digest tells nothing about a key by the time that it takes.
        self._digests = frozenset(sha256(key.get_secret_value().encode()).digest() for key in keys)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Let a request pass.

        Args:
            headers: of the request, with lower-case names.

        Raises:
            Unauthenticated: keys are configured and none of them was given.
        """
        if not self._digests:
            return
        for name, value in headers:
            given = value
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                if scheme.lower() != b"bearer":
                    continue
            elif name != b"x-api-key":
                continue
            if sha256(given.strip()).digest() in self._digests:
                return
        raise Unauthenticated(
            "Predictions need one of GATEWAY_API_KEYS here, as the header 'X-API-Key: <key>' or "
            "'Authorization: Bearer <key>'."
        )


def _host(origin: str) -> str | None:
    """The host of an Origin header; None when it names none that can be told."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def is_loopback(host: str | None) -> bool:
    """Whether an address (or the name localhost) means this host."""
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
