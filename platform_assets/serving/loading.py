"""Load a version beside those that serve, and persist what is READY afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from platform_assets.export.records import PackagedVersion
from platform_assets.export.triton_config import (
    from_text,
    load_override,
    served_versions,
    to_text,
    with_versions,
)
from platform_assets.resources.metadata import join_versions
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import (
    TritonEndpoint,
    TritonError,
    TritonNotReady,
    TritonRefused,
    TritonResource,
)
from platform_assets.serving.policy import versions_to_load
from platform_assets.serving.records import ServingState

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Log = Callable[[str], None]
"""Takes one line per step."""


def load_beside(
    packaged: PackagedVersion,
    *,
    triton: TritonResource,
    repository: ModelRepository,
    timeout_s: float,
    log: Log,
) -> ServingState:
    """Ask Triton to load a packaged version and return the result.

    What was READY stays READY in any case. `config.pbtxt` is replaced only once the version is
    READY, and then names READY versions alone. Several servers load it one after the other; if
    one fails, those before it restore what they had. The bytes are checked against their digest
    once more; `timeout_s` is the wait for READY after Triton accepted the load.

    Raises:
        TritonUnreachable: Triton does not answer; nothing was changed.
    """
    triton.ready_versions(packaged.model_name)  # raises, before any change, if a server is down
    reason = _mismatch(packaged, repository)
    if not reason:
        reason = _Loading(packaged, repository, timeout_s, log).load_everywhere(triton)
    ready = triton.ready_versions(packaged.model_name)
    return ServingState(
        model_name=packaged.model_name,
        version=packaged.version,
        run_id=packaged.run_id,
        ready=packaged.version in ready and not reason,
        reason=reason,
        ready_versions=ready,
        load_id=uuid.uuid4().hex,
    )


def _mismatch(packaged: PackagedVersion, repository: ModelRepository) -> str:
    """Say how the files on disk differ from what was packaged; "" when they do not."""
    try:
        actual = repository.verify(packaged.model_name, packaged.version).onnx_sha256
    except RepositoryError as error:
        return f"not loaded: {error}"
    if actual == packaged.sha256:
        return ""
    return f"not loaded: the repository holds digest {actual}, packaged was {packaged.sha256}"


class _NotLoadedError(Exception):
    """The version did not become READY on a server; the message says why."""


class _Loading:
    """The load of one version, server by server, and the way back."""

    def __init__(
        self, packaged: PackagedVersion, repository: ModelRepository, timeout_s: float, log: Log
    ) -> None:
        self._name, self._version = packaged.model_name, packaged.version
        self._candidate = from_text(packaged.config_text)
        self._repository, self._timeout_s, self._log = repository, timeout_s, log
        self._persisted = repository.persisted_config(self._name)
        self._verified = persisted_versions(repository, self._name)
        self._broken = repository.broken(self._name, self._verified)
        self._loaded: list[tuple[TritonEndpoint, tuple[int, ...]]] = []
        """Servers that have the version, and what they had READY before."""

    def load_everywhere(self, triton: TritonResource) -> str:
        """Load the version on every server and persist it; return why it was not, else ""."""
        try:
            triton.everywhere(self.load)
            ready = triton.ready_anywhere(self._name)
            self._repository.persist_config(self._name, to_text(self.config(ready)))
            self._log(f"READY now: {join_versions(ready)}; config.pbtxt names them")
            # A server that started meanwhile may have read the file as it was.
            triton.everywhere(self.load_unless_ready)
        except _NotLoadedError as refusal:
            self.restore()
            return str(refusal)
        except RepositoryError as refusal:
            self.restore()
            return f"not kept: {refusal}"
        except TritonError:
            self.restore()
            raise
        return ""

    def config(self, versions: Collection[int]) -> ModelConfig:
        """Return a configuration that serves these versions; the new version's settings win."""
        return config_beside(self._candidate, self._persisted, versions)

    def load(self, endpoint: TritonEndpoint) -> None:
        """Load the version beside those that this server has READY or has lost."""
        before = endpoint.ready_versions(self._name)
        versions = versions_to_load(
            self._version, ready=before, verified=self._verified, broken=self._broken
        )
        self._log(f"READY before: {join_versions(before)}; loading {join_versions(versions)}")
        refusal = "Triton gives no reason"
        try:
            endpoint.load(self._name, load_override(self.config(versions)))
            endpoint.wait_until_ready(self._name, self._version, self._timeout_s)
        except (TritonRefused, TritonNotReady) as error:
            # Triton refuses a load as a whole when one version fails, so look before judging.
            refusal = str(error)
        if self._version not in endpoint.ready_versions(self._name):
            raise _NotLoadedError(refusal)
        self._loaded.append((endpoint, before))

    def load_unless_ready(self, endpoint: TritonEndpoint) -> None:
        """Load the version where it is not READY."""
        if self._version not in endpoint.ready_versions(self._name):
            self.load(endpoint)

    def restore(self) -> None:
        """Bring servers and file back to where they were; failures are left to reconciliation."""
        if self._persisted is not None and self._loaded:
            try:
                if self._repository.persisted_config(self._name) != self._persisted:
                    self._repository.persist_config(self._name, self._persisted)
            except RepositoryError as error:
                self._log(f"config.pbtxt was not restored: {error}")
        for endpoint, before in self._loaded:
            try:
                if before:
                    text = self._persisted
                    config = self._candidate if text is None else from_text(text)
                    endpoint.load(self._name, load_override(with_versions(config, before)))
                else:
                    endpoint.unload(self._name)
            except TritonError as error:
                self._log(f"version {self._version} was not unloaded: {error}")


def config_beside(
    candidate: ModelConfig, persisted: str | None, versions: Collection[int]
) -> ModelConfig:
    """Return the configuration that serves `versions`, the candidate's among them.

    Versions share one configuration. Where the candidate's tensors differ from those of the
    serving versions, it names none, and Triton completes each version from its own graph. Such
    a change makes Triton rebuild every version while the old instances go on answering.
    """
    config = with_versions(candidate, versions)
    if persisted is None or len(versions) == 1:
        return config
    serving = from_text(persisted)
    if (list(serving.input), list(serving.output)) != (list(config.input), list(config.output)):
        del config.input[:]
        del config.output[:]
    return config


def retire(
    model_name: str,
    keep: Collection[int],
    *,
    triton: TritonResource,
    repository: ModelRepository,
) -> tuple[int, ...]:
    """Make Triton serve exactly `keep` and persist that; return the versions retired.

    Raises:
        RepositoryError: there is no persisted configuration to start from.
        TritonUnreachable, TritonRefused: nothing was persisted.
    """
    ready = triton.ready_anywhere(model_name)
    retired = tuple(version for version in ready if version not in keep)
    if retired:
        serve_exactly(model_name, keep, triton=triton, repository=repository)
    return retired


def serve_exactly(
    model_name: str,
    versions: Collection[int],
    *,
    triton: TritonResource,
    repository: ModelRepository,
) -> None:
    """Load the persisted configuration with exactly `versions`, then persist it.

    Raises:
        RepositoryError: there is no persisted configuration to start from.
        TritonUnreachable, TritonRefused: nothing was persisted.
    """
    config = with_versions(persisted_config(repository, model_name), versions)
    triton.load(model_name, load_override(config))
    persist(repository, config)


def persisted_config(repository: ModelRepository, model_name: str) -> ModelConfig:
    """Return the configuration that a restarted Triton would load; RepositoryError if none."""
    text = repository.persisted_config(model_name)
    if text is None:
        raise RepositoryError(
            f"{model_name} has no config.pbtxt: no version of it was ever seen READY"
        )
    return from_text(text)


def persist(repository: ModelRepository, config: ModelConfig) -> None:
    """Write the configuration of what serves now, unless it stands there already."""
    text = to_text(config)
    if text != repository.persisted_config(config.name):
        repository.persist_config(config.name, text)


def persisted_versions(repository: ModelRepository, model_name: str) -> tuple[int, ...]:
    """Versions that a restarted Triton would load, ascending."""
    text = repository.persisted_config(model_name)
    return () if text is None else served_versions(from_text(text))
