"""Load a version beside those that serve, and persist what turned out READY."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from platform_assets.packaging.records import PackagedVersion
from platform_assets.packaging.triton_config import (
    from_text,
    load_override,
    served_versions,
    to_text,
    with_versions,
)
from platform_assets.resources.model_repository import ModelRepository, RepositoryError
from platform_assets.resources.triton import TritonNotReady, TritonRefused, TritonResource
from platform_assets.serving.policy import versions_beside
from platform_assets.serving.records import ServingState

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Log = Callable[[str], None]


def load_beside(
    packaged: PackagedVersion,
    *,
    triton: TritonResource,
    repository: ModelRepository,
    timeout_s: float,
    log: Log,
) -> ServingState:
    """Ask Triton to load a packaged version and return what came of it.

    What was READY stays READY whatever happens. `config.pbtxt` is replaced only when the
    version is READY, and then names READY versions alone.

    Args:
        packaged: the version; its bytes are checked against their digest once more.
        triton: the server, with its control key.
        repository: the server's model repository.
        timeout_s: how long to wait for READY after Triton accepted the load.
        log: takes one line per step.

    Raises:
        TritonUnavailable: Triton does not answer; nothing was changed.
    """
    name, version = packaged.model_name, packaged.version
    before = triton.ready_versions(name)

    def state(reason: str) -> ServingState:
        ready = triton.ready_versions(name)
        return ServingState(
            model_name=name,
            version=version,
            run_id=packaged.run_id,
            ready=version in ready and not reason,
            reason=reason,
            ready_versions=ready,
            load_id=uuid.uuid4().hex,
        )

    try:
        provenance = repository.verify(name, version)
    except RepositoryError as error:
        return state(f"not loaded: {error}")
    if provenance.onnx_sha256 != packaged.sha256:
        return state(
            f"not loaded: the repository holds digest {provenance.onnx_sha256}, packaged was "
            f"{packaged.sha256}"
        )
    verified = persisted_versions(repository, name)
    versions = versions_beside(
        version, ready=before, verified=verified, broken=repository.broken(name, verified)
    )
    log(f"READY before: {_listed(before)}; loading {_listed(versions)}")
    config = beside(from_text(packaged.config_text), repository.persisted_config(name), versions)
    refusal = "Triton gives no reason"
    try:
        triton.load(name, load_override(config))
        triton.wait_until_ready(name, version, timeout_s)
    except (TritonRefused, TritonNotReady) as error:
        # Triton refuses a load as a whole when one version fails, so look before judging.
        refusal = str(error)
    ready = triton.ready_versions(name)
    if version not in ready:
        return state(refusal)
    repository.persist_config(name, to_text(with_versions(config, ready)))
    log(f"READY now: {_listed(ready)}; config.pbtxt names them")
    return state("")


def beside(candidate: ModelConfig, persisted: str | None, versions: Collection[int]) -> ModelConfig:
    """Return the configuration that serves `versions`, the candidate's among them.

    Versions share one configuration. Where the candidate reads or answers other tensors than
    those that serve, it names none, and Triton completes each version from its own graph. Such
    a change makes Triton build every version anew, beside the ones that go on answering.
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
        TritonUnavailable, TritonRefused: nothing was persisted.
    """
    ready = triton.ready_versions(model_name)
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
        TritonUnavailable, TritonRefused: nothing was persisted.
    """
    text = repository.persisted_config(model_name)
    if text is None:
        raise RepositoryError(
            f"{model_name} has no config.pbtxt: no version of it was ever seen READY"
        )
    config = with_versions(from_text(text), versions)
    triton.load(model_name, load_override(config))
    rendered = to_text(config)
    if rendered != text:
        repository.persist_config(model_name, rendered)


def persisted_versions(repository: ModelRepository, model_name: str) -> tuple[int, ...]:
    """Versions that a restarted Triton would load, ascending."""
    text = repository.persisted_config(model_name)
    return () if text is None else served_versions(from_text(text))


def _listed(versions: Collection[int]) -> str:
    return ", ".join(map(str, versions)) or "none"
