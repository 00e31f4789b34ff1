"""The control token of a gateway that none was configured for: made once, kept in a file."""

from __future__ import annotations

import logging
from typing import Final

from serving_gateway.http.security import DEFAULT_NAME, Access
from serving_gateway.secret_files import read_or_create
from serving_gateway.settings import Settings

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
