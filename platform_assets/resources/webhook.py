"""A Slack-compatible webhook: what people should hear of goes there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

URL_VARIABLE: Final = "NOTIFY_WEBHOOK_URL"
_TIMEOUT_S: Final = 5.0
_HIDDEN: Final = "***"
_PARAMETERS: Final = re.compile(
    r"((?:password|passwd|pwd)(?:=|%3D))(?:(?!%3B)[^&;\s])+", re.IGNORECASE
)
# Up to the last @: an @ in a password is often not written as %40.
_CREDENTIALS: Final = re.compile(r"(?<=://)\S+(?=@)")
_SECRET_NAME: Final = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|_KEY$|WEBHOOK", re.IGNORECASE
)
_SHORTEST_SECRET: Final = 6


class WebhookError(Exception):
    """The webhook did not take the message; the text holds no part of its address but the host."""


class WebhookResource(dg.ConfigurableResource[None]):
    """Posts `{"text": ...}`; without an address it is off."""

    url: str = Field(
        default="",
        description=f"Address of the webhook; default: the variable {URL_VARIABLE}. It is a "
        "secret: whoever knows it can write to the channel.",
    )

    @property
    def address(self) -> str:
        """The address, empty when notifications are off."""
        return self.url or os.environ.get(URL_VARIABLE, "")

    def post(self, text: str) -> None:
        """Send a message; secrets of this process's environment are taken out of it.

        Raises:
            WebhookError: no answer within 5 seconds, or one that says no.
        """
        import httpx

        try:
            answer = httpx.post(
                self.address, json={"text": without_secrets(text, os.environ)}, timeout=_TIMEOUT_S
            )
        # The library's texts may hold the address, which is a secret.
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WebhookError(
                f"the webhook at {self._host()} did not answer ({type(error).__name__})"
            ) from None
        if not answer.is_success:
            raise WebhookError(
                f"the webhook at {self._host()} refused the message ({answer.status_code})"
            )

    def _host(self) -> str:
        try:
            return urlsplit(self.address).hostname or "an address without a host"
        except ValueError:
            return "an address that is none"


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` without credentials in addresses and without secrets of the environment.

    A variable is a secret by its name: token, password, key and the like.
    """
    text = _CREDENTIALS.sub(_HIDDEN, _PARAMETERS.sub(rf"\1{_HIDDEN}", text))
    secrets = {
        value
        for name, value in environment.items()
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text
