"""Who may change what is served, who may ask for predictions, and which addresses are ours."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from serving_gateway.errors import Forbidden, MalformedRequest, Unauthenticated

Headers = Iterable[tuple[bytes, bytes]]
"""Headers of a request, with lower-case names."""

_UNCHANGED: Final = "Nothing was changed."


def _digest(secret: bytes) -> bytes:
    # Comparing digests tells nothing about a secret by the time that it takes.
    return sha256(secret.strip()).digest()


class ControlTokens:
    """The bearer tokens of the control endpoints, by the names under which changes are recorded.

    Args:
        tokens: name and token; several tokens of one name are accepted alike.
    """

    def __init__(self, tokens: Iterable[tuple[str, str]] = ()) -> None:
        self._names: dict[bytes, str] = {}
        for name, token in tokens:
            self.add(name, token)

    def add(self, name: str, token: str) -> None:
        """Accept another token."""
        self._names[_digest(token.encode())] = name

    def name_of(self, headers: Headers) -> str | None:
        """The name of the token that a request carries; None when it carries none of them."""
        given = _bearer(headers)
        if given is None:
            return None
        digest, found = _digest(given), None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def authenticate(self, headers: Headers) -> str:
        """Return who asks, for the record: `token:<name>`.

        Raises:
            Unauthenticated: the request carries none of the tokens.
        """
        name = self.name_of(headers)
        if name is None:
            raise Unauthenticated(
                "This endpoint changes what is served and needs the header 'Authorization: Bearer "
                f"<token>' with one of the gateway's control tokens. {_UNCHANGED}"
            )
        return f"token:{name}"


class DataGuard:
    """Lets requests pass by API key or control token; all of them when no key is configured.

    Args:
        keys: any one of which will do.
        tokens: control tokens, which will do as well.
    """

    def __init__(self, keys: Sequence[SecretStr], tokens: ControlTokens) -> None:
        self._digests = frozenset(_digest(key.get_secret_value().encode()) for key in keys)
        self._tokens = tokens

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries what it needs."""
        if not self._digests:
            return True
        for name, value in headers:
            if name == b"x-api-key" and _digest(value) in self._digests:
                return True
        given = _bearer(headers)
        if given is not None and _digest(given) in self._digests:
            return True
        return self._tokens.name_of(headers) is not None

    def check(self, headers: Headers) -> None:
        """Let a request pass.

        Raises:
            Unauthenticated: keys are configured, and the request carries neither one of them nor
                a control token.
        """
        if not self.admits(headers):
            raise Unauthenticated(
                "This gateway answers with one of GATEWAY_API_KEYS only, as the header "
                "'X-API-Key: <key>' or 'Authorization: Bearer <key>'. Health and readiness need "
                "none."
            )


class SourceRules:
    """Which Host and Origin a request may carry.

    A page of another site reaches a gateway on the visitor's machine in two ways. A cross-site
    request carries that site's Origin. A name that the site lets resolve to the gateway's address
    (DNS rebinding) makes both Host and Origin the site's own, so that Host itself must be known.
    An address cannot be rebound, and a token is not known to that page: requests with either
    pass. Predictions are open to any Host, as clients use names that only they know; where that
    is too much, API keys close them.

    Args:
        bind: the address that the gateway listens on.
        allowed_hosts: further names; `*` allows every name.
        cors_origins: origins of pages that may ask for predictions.
    """

    def __init__(self, bind: str, allowed_hosts: Iterable[str], cors_origins: Iterable[str]):
        self._hosts = frozenset({"localhost", bind.lower(), *map(str.lower, allowed_hosts)})
        self._cors_origins = frozenset(cors_origins)

    def check_host(self, headers: Headers) -> None:
        """Let a request pass that names the gateway as its owner does.

        Raises:
            Forbidden: it names it otherwise.
        """
        name = _host_name(_value(headers, b"host"))
        if "*" in self._hosts or name in self._hosts or _is_address(name):
            return
        raise Forbidden(
            f"The Host {name[:100]!r} is not one of this gateway's: call it by its address, send "
            f"a control token, or name it in GATEWAY_ALLOWED_HOSTS. {_UNCHANGED}"
        )

    def check_origin(self, headers: Headers, *, cors: bool) -> None:
        """Let a request pass that no page made, or one of this gateway's or an allowed origin.

        Args:
            headers: of the request.
            cors: whether the configured origins are allowed.

        Raises:
            Forbidden: a page of another origin made it.
        """
        value = _value(headers, b"origin")
        if value is None:
            return
        origin = value.decode("latin-1").lower()
        host = (_value(headers, b"host") or b"").decode("latin-1").lower()
        # Behind a proxy that ends TLS the gateway's own pages have an https origin.
        if origin in {f"http://{host}", f"https://{host}"}:
            return
        if cors and (origin in self._cors_origins or "*" in self._cors_origins):
            return
        where = "GATEWAY_CORS_ORIGINS does not allow it" if cors else _UNCHANGED
        raise Forbidden(f"The request was made by a web page of {origin[:100]!r}: {where}")


def check_one_host(headers: Headers, http_version: str) -> None:
    """Refuse a request whose target is ambiguous, as RFC 9112 demands.

    Raises:
        MalformedRequest: there is not exactly one Host.
    """
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and http_version == "1.1"):
        raise MalformedRequest(
            f"The request has {hosts} Host headers; HTTP/1.1 has exactly one.", code="bad_host"
        )


def _value(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _bearer(headers: Headers) -> bytes | None:
    scheme, _, given = (_value(headers, b"authorization") or b"").partition(b" ")
    return given if scheme.lower() == b"bearer" else None


def _host_name(host: bytes | None) -> str:
    """The name in a Host header without its port; empty when it is not one."""
    try:
        name = urlsplit(f"//{(host or b'').decode('latin-1')}").hostname
    except ValueError:
        return ""
    return (name or "").rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Access:
    """All rules of access of one gateway.

    Args:
        tokens: control tokens.
        keys: API keys; without any, predictions and status are open.
        sources: which Host and Origin are the gateway's own.
    """

    def __init__(
        self, tokens: ControlTokens, keys: Sequence[SecretStr], sources: SourceRules
    ) -> None:
        self.tokens = tokens
        self.data = DataGuard(keys, tokens)
        self._sources = sources

    def admit_control(self, headers: Headers) -> None:
        """Let a change pass: no page of another origin may make it, and it needs a token.

        Raises:
            Forbidden, Unauthenticated: it is refused.
        """
        self._sources.check_origin(headers, cors=False)
        self.tokens.authenticate(headers)

    def admit_prediction(self, headers: Headers) -> None:
        """Let a prediction pass: by key where there are keys, and from no foreign page.

        Raises:
            Forbidden, Unauthenticated: it is refused.
        """
        self._sources.check_origin(headers, cors=True)
        self.data.check(headers)

    def admit_status(self, headers: Headers) -> None:
        """Let a question about the state pass: by key where there are keys.

        Raises:
            Forbidden, Unauthenticated: it is refused.
        """
        self._sources.check_origin(headers, cors=False)
        self.data.check(headers)

    def admit_client_data(self, headers: Headers) -> None:
        """Let a question pass whose answer may hold clients' rows.

        Raises:
            Forbidden, Unauthenticated: it is refused.
        """
        self.admit_status(headers)
        if self.tokens.name_of(headers) is None:
            self._sources.check_host(headers)
