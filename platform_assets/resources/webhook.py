"""A Slack-compatible webhook, the destination of reports."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from platform_assets.resources.redaction import redact_secrets

URL_VARIABLE: Final = "NOTIFY_WEBHOOK_URL"
_TIMEOUT_S: Final = 5.0
_LATER: Final = frozenset({408, 425, 429})
"""HTTP statuses of refusals after which the same message may be sent later."""


class WebhookError(Exception):
    """The webhook did not accept the message; the text reveals only the host of its address."""


class MessageRejected(WebhookError):
    """The webhook will not accept this message later either."""


def escape(text: str) -> str:
    """Escape text so that Slack shows it verbatim: no mentions, no links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class WebhookResource(dg.ConfigurableResource[None]):
    """Posts `{"text": ...}`; without an address it is off."""

    url: str = Field(
        default="",
        description=f"Address of the webhook; default: the variable {URL_VARIABLE}. It is a "
        "secret: who knows it can write to the channel.",
    )

    @property
    def address(self) -> str:
        """The address, empty when notifications are off."""
        return self.url or os.environ.get(URL_VARIABLE, "")

    def post(self, text: str) -> None:
        """Send a message, without secrets of this process's environment.

        Raises:
            MessageRejected: the webhook rejects this message (4xx).
            WebhookError: no answer within 5 seconds, or one that asks to retry later.
        """
        import httpx

        # An exception's text may hold bytes of a file name that are no characters.
        shown = redact_secrets(text, os.environ).encode("utf-8", "replace").decode()
        try:
            answer = httpx.post(self.address, json={"text": shown}, timeout=_TIMEOUT_S)
        # The library's texts may hold the address, which is a secret.
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WebhookError(
                f"the webhook at {self._host()} did not answer ({type(error).__name__})"
            ) from None
        if not answer.is_success:
            final = answer.is_client_error and answer.status_code not in _LATER
            raise (MessageRejected if final else WebhookError)(
                f"the webhook at {self._host()} refused the message ({answer.status_code})"
            )

    def _host(self) -> str:
        try:
            return urlsplit(self.address).hostname or "an address without a host"
        except ValueError:
            return "an address that is not valid"
