"""The control token of a gateway that none was configured for: made once, kept in a file."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from serving_gateway.http.security import DEFAULT_NAME, Access
from serving_gateway.settings import MIN_KEY_LENGTH, Settings

log = logging.getLogger(__name__)

FILE_NAME: Final = "control-token"


def ensure_token(settings: Settings, access: Access) -> None:
    """Generate a token where the settings name none, and log where it lies.

    A directory that cannot be written leaves the control endpoints closed; predictions are
    answered all the same.
    """
    if settings.control_token is not None or settings.control_tokens:
        return
    path = settings.state_dir / FILE_NAME
    file = {"file": str(path.absolute())}
    try:
        access.add_token(DEFAULT_NAME, read_or_create(path))
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 -- the cause is in the message
            "no control token: control endpoints refuse every call until GATEWAY_CONTROL_TOKEN "
            "is set or the file can be used; predictions are answered",
            extra={**file, "reason": str(error)},
        )
    else:
        text = "GATEWAY_CONTROL_TOKEN is not set; the control token is in a file"
        log.warning(text, extra=file)


def read_or_create(path: Path) -> str:
    """The token in a file, created with mode 0600 by the first of processes that start at once.

    `OSError` when it cannot be read or written, `ValueError` when it holds too few characters.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with NamedTemporaryFile("w", dir=path.parent) as staged:  # of mode 0600
            staged.write(secrets.token_urlsafe(32) + "\n")
            staged.flush()
            os.fsync(staged.fileno())
            # A link, unlike a rename, fails where another process was first.
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(staged.name)
    token = path.read_text(encoding="utf-8").strip()
    if len(token) < MIN_KEY_LENGTH:
        raise ValueError(f"{path} holds {len(token)} characters; it needs {MIN_KEY_LENGTH}")
    return token
