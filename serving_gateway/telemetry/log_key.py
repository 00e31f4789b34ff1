"""The key with which the prediction log hashes client ids."""

from __future__ import annotations

import logging

from serving_gateway.contract import LOG_KEY_FILE
from serving_gateway.secret_files import read_or_create
from serving_gateway.settings import Settings

log = logging.getLogger(__name__)


def log_key(settings: Settings) -> bytes | None:
    """The configured key, or else that of the state directory; None if neither is available."""
    if settings.sample_key is not None:
        return settings.sample_key.get_secret_value().encode()
    path = settings.state_dir / LOG_KEY_FILE
    try:
        return read_or_create(path).encode()
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 -- the cause is in the message
            "no key for the prediction log: it has no clients until GATEWAY_SAMPLE_KEY is set or "
            "the file can be used; predictions are answered and logged",
            extra={"file": str(path.absolute()), "reason": str(error)},
        )
        return None
