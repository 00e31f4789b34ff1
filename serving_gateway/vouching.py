"""Who vouches for a version: the run that made it, and its signature."""

from __future__ import annotations

from itertools import chain

from serving_gateway.contract import RoutingRecord, Signature, Slot
from serving_gateway.errors import Conflict, RegistryUnavailable, Unavailable
from serving_gateway.registry import Registered, Registry


async def vouch(
    registry: Registry | None,
    record: RoutingRecord,
    model_name: str,
    version: int,
    claimed: str | None,
) -> tuple[str, str, Signature | None]:
    """Find out the run that made the version: (run_id, who says so, signature).

    The registry is asked first; when it cannot answer, the authenticated caller or what the
    record already holds stands in, and the answer says so.
    """
    problem = "no registry is configured (GATEWAY_MLFLOW_URL)"
    if registry is not None:
        try:
            registered = await registry.version(model_name, version)
        except RegistryUnavailable as error:
            problem = error.message
        else:
            return _registered_run(registered, model_name, version, claimed)
    held = _on_record(record, model_name, version)
    signature = None if held is None else held.signature
    if claimed is not None:
        if held is not None and held.run_id != claimed:
            raise Conflict(
                f"{model_name} version {version} is on record with run {held.run_id}, not "
                f"with {claimed}.",
                code="run_id_contradiction",
            )
        return claimed, "caller", signature
    if held is not None:
        return held.run_id, "record", signature
    raise Unavailable(
        f"Nobody can tell which run made {model_name} version {version}: {problem}. "
        "Name the run_id in the request, or try again once the registry answers.",
        code="run_id_unknown",
    )


def _on_record(record: RoutingRecord, model_name: str, version: int) -> Slot | None:
    """What the record already holds about a version, now or before, for any variant."""
    slots = [*record.variants.values(), *chain.from_iterable(record.previous.values())]
    for slot in slots:
        if slot.version == version and (slot.model_name or record.model_name) == model_name:
            return slot
    return None


def _registered_run(
    registered: Registered | None, model_name: str, version: int, claimed: str | None
) -> tuple[str, str, Signature | None]:
    """The run that a registry which could be asked vouches for."""
    if registered is None:
        raise Conflict(
            f"Triton has {model_name} version {version} READY, but the registry has no such "
            "version, so nobody vouches for it.",
            code="not_registered",
        )
    if claimed is not None and claimed != registered.run_id:
        raise Conflict(
            f"The registry says that run {registered.run_id} made {model_name} version {version}, "
            f"not {claimed}.",
            code="run_id_contradiction",
        )
    return registered.run_id, "registry", registered.signature
