"""Redact secrets in text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_HIDDEN: Final = "***"
_PARAMETERS: Final = re.compile(
    r"((?:password|passwd|pwd)(?:=|%3D))(?:(?!%3B)[^&;\s])+", re.IGNORECASE
)
# Up to the last @: an @ in a password is often not escaped as %40.
_CREDENTIALS: Final = re.compile(r"(?<=://)\S+(?=@)")
_SECRET_NAME: Final = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|_KEY$|WEBHOOK", re.IGNORECASE
)
_SHORTEST_SECRET: Final = 6


def redact_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return `text` without credentials in addresses and without the environment's secrets.

    A variable counts as a secret by its name: token, password, key and the like.
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
