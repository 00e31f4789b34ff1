"""Who may change what is served."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
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
        if origin is not None and not is_loopback(urlsplit(origin).hostname):
            raise Forbidden(
                f"The call was made by a web page of {origin}; configure GATEWAY_CONTROL_TOKEN "
                "to allow that. Nothing was changed."
            )
        return "loopback"


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
