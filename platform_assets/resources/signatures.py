"""The signature of a version: kept with its run, since a tag is too short for wide data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from platform_assets.resources.mlflow_client import RegistryError
from serving_gateway.contract import SIGNATURE_ARTIFACT, SIGNATURE_DIGEST_TAG, Signature


class SignatureReader:
    """Reads signatures of versions, each of the same content once.

    `fetch` returns a run's artifact, by run and path.
    """

    def __init__(self, fetch: Callable[[str, str], bytes]) -> None:
        self._fetch = fetch
        self._known: dict[str, Signature] = {}

    def read(self, run_id: str, tags: Mapping[str, str]) -> Signature:
        """Return the signature that the tags of a version stand for.

        Raises:
            KeyError: they stand for none.
            msgspec.MsgspecError: what they stand for is not a signature.
            RegistryError: the run does not have it, or has another one.
        """
        digest = tags[SIGNATURE_DIGEST_TAG]
        if digest not in self._known:
            data = self._fetch(run_id, SIGNATURE_ARTIFACT)
            if hashlib.sha256(data).hexdigest() != digest:
                raise RegistryError(
                    f"{SIGNATURE_ARTIFACT} of run {run_id} is not what its version was "
                    "registered with: train again"
                )
            self._known[digest] = msgspec.json.decode(data, type=Signature)
        return self._known[digest]


def is_signed(tags: Mapping[str, str]) -> bool:
    """Whether the tags of a version say what it reads and answers."""
    return SIGNATURE_DIGEST_TAG in tags
