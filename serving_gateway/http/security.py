"""Who may change what is served, who may ask for predictions, and which addresses are ours."""

from __future__ import annotations

import contextlib
import hmac
import logging
from enum import Enum
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from serving_gateway.contract import PLATFORM_HEADER
from serving_gateway.errors import Forbidden, Unauthenticated
from serving_gateway.http.raw import Header, header
from serving_gateway.secret_files import read_or_create
from serving_gateway.settings import Settings

log = logging.getLogger(__name__)

_DEFAULT_NAME: Final = "default"
"""Name of the token that is configured or generated without one."""
_UNCHANGED: Final = "Nothing was changed."


class Need(Enum):
    """What a request must bring, by what it asks for."""

    PREDICTION = "an API key, where there are keys, from an allowed origin"
    STATUS = "an API key, where there are keys, from the gateway's own origin"
    OUTCOMES = "the same: a page of another site writes none"
    CLIENT_DATA = "as for STATUS, and a control token or the gateway's own name as its Host"
    CONTROL = "a control token, from the gateway's own origin"


class Access:
    """The tokens and keys of a gateway, and which Host and Origin a request may carry.

    A page of another site reaches a gateway on the visitor's machine in two ways. A cross-site
    request carries that site's Origin. A name that the site lets resolve to the gateway's address
    (DNS rebinding) makes both Host and Origin the site's own, so that Host itself must be known.
    An address cannot be rebound, and a token is not known to that page: requests with either
    pass. Predictions are open to any Host, as clients use names that only they know; where that
    is too much, API keys close them.
    """

    def __init__(self, settings: Settings) -> None:
        self._hosts = {"localhost", settings.host.lower(), *settings.allowed_hosts}
        self._cors_origins = frozenset(settings.cors_origins)
        self._keys = frozenset(_digest(key.get_secret_value()) for key in settings.api_keys)
        self._tokens: dict[bytes, str] = {}
        if settings.control_token is not None:
            self.add_token(_DEFAULT_NAME, settings.control_token.get_secret_value())
        for name, token in settings.control_tokens:
            self.add_token(name, token.get_secret_value())

    @property
    def needs_key(self) -> bool:
        """Whether predictions and status need an API key or control token."""
        return bool(self._keys)

    def add_token(self, name: str, token: str) -> None:
        """Accept another control token; tokens may share a name."""
        self._tokens[_digest(token)] = name

    def token_name(self, headers: list[Header]) -> str | None:
        """The name of the control token that a request carries; None when it carries none."""
        given, match = _bearer(headers), None
        if given is not None:
            for known, name in self._tokens.items():
                if hmac.compare_digest(known, given):
                    match = name
        return match

    def has_key(self, headers: list[Header]) -> bool:
        """Whether a request may ask for predictions and status."""
        return (
            not self._keys
            or any(key == b"x-api-key" and _digest(value) in self._keys for key, value in headers)
            or _bearer(headers) in self._keys
            or self.token_name(headers) is not None
        )

    def check_key(self, headers: list[Header]) -> None:
        """Refuse (`Unauthenticated`) a request without key or token, where keys are configured."""
        if not self.has_key(headers):
            raise Unauthenticated(
                "This gateway needs one of GATEWAY_API_KEYS, as the header 'X-API-Key: <key>' or "
                "'Authorization: Bearer <key>', or a control token as the latter. Health and "
                "readiness need none."
            )

    def require_token(self, headers: list[Header]) -> None:
        """Refuse (`Unauthenticated`) an inference of the platform without a control token."""
        if self.token_name(headers) is None:
            raise Unauthenticated(
                f"The header {PLATFORM_HEADER} needs one of the gateway's control tokens, as "
                "'Authorization: Bearer <token>': such a request is not counted as traffic."
            )

    def admit(self, need: Need, headers: list[Header]) -> str | None:
        """The name of a request's control token, if any; else `Forbidden` or `Unauthenticated`."""
        self._check_origin(headers, cors=need is Need.PREDICTION)
        name = self.token_name(headers)
        if need is not Need.CONTROL:
            self.check_key(headers)
        elif name is None:
            raise Unauthenticated(
                "This endpoint changes what is served and needs the header 'Authorization: Bearer "
                f"<token>' with one of the gateway's control tokens. {_UNCHANGED}"
            )
        if need is Need.CLIENT_DATA and name is None:
            self._check_host(headers)
        return name

    def _check_host(self, headers: list[Header]) -> None:
        name = ""
        if "*" in self._hosts:
            return
        with contextlib.suppress(ValueError):  # neither a name of ours nor an address
            name = (urlsplit(f"//{_text(headers, b'host')}").hostname or "").rstrip(".")
            if name not in self._hosts:
                ip_address(name)
            return
        raise Forbidden(
            f"The Host {name[:100]!r} is not one of this gateway's: call it by its address, send "
            f"a control token, or add the name to GATEWAY_ALLOWED_HOSTS. {_UNCHANGED}"
        )

    def _check_origin(self, headers: list[Header], *, cors: bool) -> None:
        origin, host = _text(headers, b"origin"), _text(headers, b"host")
        # Behind a proxy that ends TLS the gateway's own pages have an https origin.
        if header(headers, b"origin") is None or origin in (f"http://{host}", f"https://{host}"):
            return
        if cors and not self._cors_origins.isdisjoint((origin, "*")):
            return
        where = "GATEWAY_CORS_ORIGINS does not allow it" if cors else _UNCHANGED
        raise Forbidden(f"The request was made by a web page of {origin[:100]!r}: {where}")


def ensure_token(settings: Settings, access: Access) -> None:
    """Generate a token where the settings name none, and log where it is stored.

    If the directory cannot be written, the control endpoints stay closed; predictions are still
    answered.
    """
    if settings.control_token is not None or settings.control_tokens:
        return
    path = settings.state_dir / "control-token"
    file = {"file": str(path.absolute())}
    try:
        access.add_token(_DEFAULT_NAME, read_or_create(path))
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 -- the cause is in the message
            "no control token: control endpoints refuse every call until GATEWAY_CONTROL_TOKEN "
            "is set or the file can be used; predictions are answered",
            extra={**file, "reason": str(error)},
        )
    else:
        text = "GATEWAY_CONTROL_TOKEN is not set; the control token is in a file"
        log.warning(text, extra=file)


def _digest(secret: str | bytes) -> bytes:
    # Comparing digests leaks nothing about a secret through its timing.
    return sha256((secret.encode() if isinstance(secret, str) else secret).strip()).digest()


def _text(headers: list[Header], name: bytes) -> str:
    return (header(headers, name) or b"").decode("latin-1").lower()


def _bearer(headers: list[Header]) -> bytes | None:
    """The digest of the token or key in a request."""
    scheme, _, given = (header(headers, b"authorization") or b"").partition(b" ")
    return _digest(given) if scheme.lower() == b"bearer" else None
