"""Where a version came from: the run that made it, its signature and its lineage."""

from __future__ import annotations

from itertools import chain

import msgspec

from serving_gateway.contract import Lineage, RoutingRecord, Signature, Slot, feature_contract
from serving_gateway.control.registry import Registered, Registry
from serving_gateway.errors import Conflict, RegistryUnavailable, Unavailable


class ResolvedProvenance(msgspec.Struct, frozen=True):
    """What is known of a version."""

    run_id: str
    source: str
    """Who says so: `registry`, `caller` or `record`."""
    signature: Signature | None
    lineage: Lineage


async def resolve_provenance(
    registry: Registry | None,
    record: RoutingRecord,
    model_name: str,
    version: int,
    claimed: str | None,
) -> ResolvedProvenance:
    """Find out the run that made the version, and what else is recorded of it.

    The registry is asked first; when it cannot answer, the authenticated caller or what the
    record already holds stands in, and the answer says so.
    """
    held = _on_record(record, model_name, version)
    problem = "no registry is configured (GATEWAY_MLFLOW_URL)"
    if registry is not None:
        try:
            registered = await registry.version(model_name, version)
        except RegistryUnavailable as error:
            problem = error.message
        else:
            found = _from_registry(registered, model_name, version, claimed)
            if held is None or held.run_id != found.run_id:
                return found
            lineage = _filled(found.lineage, held.lineage)
            return msgspec.structs.replace(found, lineage=lineage)
    signature = None if held is None else held.signature
    lineage = Lineage() if held is None else held.lineage
    if claimed is not None:
        if held is not None and held.run_id != claimed:
            raise Conflict(
                f"{model_name} version {version} is on record with run {held.run_id}, not "
                f"with {claimed}.",
                code="run_id_contradiction",
            )
        return ResolvedProvenance(claimed, "caller", signature, lineage)
    if held is not None:
        return ResolvedProvenance(held.run_id, "record", signature, lineage)
    raise Unavailable(
        f"The run that made {model_name} version {version} is not known: {problem}. "
        "Name the run_id in the request, or try again once the registry answers.",
        code="run_id_unknown",
    )


def check_contract(
    wanted: str | None, signature: Signature | None, model_name: str, version: int
) -> None:
    """Make sure that a version reads what the caller says that it reads.

    Args:
        wanted: digest of the features; None when the caller does not care.
        signature: of the version, as recorded; without one that is unknown.
        model_name: whose version it is.
        version: for the error.

    Raises:
        Conflict: it reads something else, or that is unknown.
    """
    if wanted is None:
        return
    found = "unknown" if signature is None else feature_contract(signature.features)
    if found != wanted:
        raise Conflict(
            f"The features of {model_name} version {version} have the contract {found}, not "
            f"{wanted} as asked for. Nothing was changed: compare what the version was "
            "registered with and what the feature store has.",
            code="feature_contract_mismatch",
        )


def _filled(lineage: Lineage, older: Lineage) -> Lineage:
    """A lineage with what only the older one knows."""
    known = {
        name: value for name, value in msgspec.structs.asdict(lineage).items() if value is not None
    }
    return msgspec.structs.replace(older, **known)


def _on_record(record: RoutingRecord, model_name: str, version: int) -> Slot | None:
    """What the record already holds about a version, now or before, for any variant."""
    slots = [*record.variants.values(), *chain.from_iterable(record.previous.values())]
    for slot in slots:
        if slot.version == version and (slot.model_name or record.model_name) == model_name:
            return slot
    return None


def _from_registry(
    registered: Registered | None, model_name: str, version: int, claimed: str | None
) -> ResolvedProvenance:
    """What a registry that could be asked says."""
    if registered is None:
        raise Conflict(
            f"Triton has {model_name} version {version} READY, but the registry has no such "
            "version, so its run is not known.",
            code="not_registered",
        )
    if claimed is not None and claimed != registered.run_id:
        raise Conflict(
            f"The registry says that run {registered.run_id} made {model_name} version {version}, "
            f"not {claimed}.",
            code="run_id_contradiction",
        )
    return ResolvedProvenance(
        registered.run_id, "registry", registered.signature, registered.lineage
    )
