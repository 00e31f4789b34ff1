"""What MLflow knows about a version, asked over its REST API during a reload only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr

from serving_gateway.contract import (
    CODE_VERSION_TAG,
    DAGSTER_RUN_TAG,
    DATA_FINGERPRINT_TAG,
    ONNX_DIGEST_TAG,
    RUN_ID_TAG,
    SIGNATURE_ARTIFACT,
    SIGNATURE_DIGEST_TAG,
    Lineage,
    Signature,
)
from serving_gateway.errors import Conflict, RegistryUnavailable

if TYPE_CHECKING:
    import httpx


class RegistryEntry(msgspec.Struct, frozen=True):
    """A registered version: the run that made it, and what else was recorded about it."""

    run_id: str
    signature: Signature | None = None
    lineage: Lineage = Lineage()


class _Tag(msgspec.Struct):
    key: str
    value: str = ""


class _ModelVersion(msgspec.Struct):
    run_id: str = ""
    tags: list[_Tag] = []


class _Answer(msgspec.Struct):
    model_version: _ModelVersion | None = None
    error_code: str = ""
    message: str = ""


class Registry:
    """MLflow's model registry at `url`; `transport` replaces the network in tests.

    Authenticates with the `token`, or with a username and password.
    """

    def __init__(
        self,
        url: str,
        *,
        token: SecretStr | None = None,
        username: str | None = None,
        password: SecretStr | None = None,
        limit_seconds: float = 3.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        # Imported here: at the top, this would cost a quarter of the gateway's startup time.
        import httpx

        self._where = f"MLflow at {url}"
        self._failures = httpx.HTTPError
        secret = "" if password is None else password.get_secret_value()
        headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=limit_seconds,
            headers=headers,
            auth=None if username is None else (username, secret),
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def version(self, model_name: str, version: int) -> RegistryEntry | None:
        """The registered version, if any; `RegistryUnavailable`, or `Conflict` when unusable."""
        path = "/api/2.0/mlflow/model-versions/get"
        answer = await self._get(path, name=model_name, version=str(version))
        try:
            decoded = msgspec.json.decode(answer.content, type=_Answer)
        except ValueError as error:
            raise RegistryUnavailable(
                f"{self._where} gave an unreadable answer, {answer.status_code}: {error}."
            ) from error
        if decoded.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        if answer.status_code != 200 or decoded.model_version is None:
            why = f"{answer.status_code}: {decoded.error_code} {decoded.message}".rstrip()
            raise RegistryUnavailable(f"{self._where} answered {why}.")
        which = f"{model_name} version {version}"
        tags = {tag.key: tag.value for tag in decoded.model_version.tags}
        run_id = decoded.model_version.run_id or tags.get(RUN_ID_TAG, "")
        if not run_id:
            raise Conflict(
                f"MLflow has {which} without the run that made it; register it from a run.",
                code="run_id_unknown",
            )
        data = await self._signature(run_id, tags)
        try:
            signature = None if data is None else msgspec.json.decode(data, type=Signature)
        except ValueError as error:
            raise Conflict(
                f"The signature of {which} in MLflow is not valid: {error}.",
                code="signature_unreadable",
            ) from error
        return RegistryEntry(run_id, signature, _lineage(tags))

    async def _get(self, path: str, /, **params: str) -> httpx.Response:
        try:
            return await self._client.get(path, params=params)
        except self._failures as error:
            why = str(error) or type(error).__name__
            raise RegistryUnavailable(f"{self._where} did not answer: {why}.") from error

    async def _signature(self, run_id: str, tags: Mapping[str, str]) -> bytes | None:
        """The signature of a version as JSON; None when none was recorded."""
        digest = tags.get(SIGNATURE_DIGEST_TAG)
        if digest is None:
            return None
        answer = await self._get("/get-artifact", run_id=run_id, path=SIGNATURE_ARTIFACT)
        if answer.status_code != 200:
            raise RegistryUnavailable(
                f"{self._where} answered {answer.status_code} for {SIGNATURE_ARTIFACT} of run "
                f"{run_id}."
            )
        if hashlib.sha256(answer.content).hexdigest() != digest:
            raise Conflict(
                f"{SIGNATURE_ARTIFACT} of MLflow's run {run_id} differs from what its version was "
                "registered with.",
                code="signature_unreadable",
            )
        return answer.content


def _lineage(tags: Mapping[str, str]) -> Lineage:
    """The lineage in the tags of a registered version; an empty tag counts as missing."""
    return Lineage(
        data_fingerprint=tags.get(DATA_FINGERPRINT_TAG) or None,
        code_version=tags.get(CODE_VERSION_TAG) or None,
        dagster_run_id=tags.get(DAGSTER_RUN_TAG) or None,
        onnx_sha256=tags.get(ONNX_DIGEST_TAG) or None,
    )
