"""Where a version came from: the run that made it, its signature and its lineage."""

from __future__ import annotations

import logging
from itertools import chain

import msgspec
from msgspec.structs import asdict

from serving_gateway.contract import Lineage, Mode, RoutingRecord, Slot, feature_contract
from serving_gateway.control.registry import Registry, RegistryEntry
from serving_gateway.errors import Conflict, RegistryUnavailable, Unavailable

log = logging.getLogger(__name__)


class Upstream(msgspec.Struct, frozen=True):
    """Where a version is served."""

    url: str | None
    """The Triton server; None for the default one."""
    model_name: str
    """Its name in Triton and in the registry."""


async def resolve_slot(
    registry: Registry | None,
    record: RoutingRecord,
    upstream: Upstream,
    version: int,
    mode: Mode,
    claimed: str | None = None,
) -> Slot:
    """Make the slot of a version, with the run that made it and what else is recorded about it.

    The registry is asked first; when it cannot answer, the `claimed` run of an authenticated caller
    or the record's entry stands in, and `run_id_source` says so. The record's entry also stands in
    for a version that was deleted from the registry. `Conflict` when the registry has no such
    version or sources contradict each other, `Unavailable` when none knows the run.
    """
    model_name = upstream.model_name
    which = f"{model_name} version {version}"
    held = _on_record(record, model_name, version)
    entry, problem = await _ask(registry, model_name, version)
    source = "registry"
    if entry is None and not problem and held is None:
        raise Conflict(
            f"Triton has {which} READY, but the registry has no such version, so its run is not "
            "known.",
            code="not_registered",
        )
    if entry is None:
        if not problem:
            log.warning("The registry no longer has %s; its run is that of the record", which)
        source = "record" if claimed is None else "caller"
        entry = _fallback_entry(held, claimed, which, problem)
    if claimed not in {None, entry.run_id}:
        witness = "registry" if source == "registry" else "routing record"
        raise Conflict(
            f"The {witness} says that run {entry.run_id} made {which}, not {claimed}.",
            code="run_id_contradiction",
        )
    return Slot(
        version=version,
        run_id=entry.run_id,
        run_id_source=source,
        mode=mode,
        signature=entry.signature,
        model_name=None if model_name == record.model_name else model_name,
        triton_url=upstream.url,
        lineage=_lineage(entry, held),
    )


async def _ask(
    registry: Registry | None, model_name: str, version: int
) -> tuple[RegistryEntry | None, str]:
    """Return the registry's entry of a version, and why it could not answer ('' if it could)."""
    if registry is None:
        return None, "no registry is configured (GATEWAY_MLFLOW_URL)"
    try:
        return await registry.version(model_name, version), ""
    except RegistryUnavailable as error:
        return None, error.message


def _fallback_entry(
    held: Slot | None, claimed: str | None, which: str, problem: str
) -> RegistryEntry:
    """What is known about a version without the registry."""
    if held is not None:
        return RegistryEntry(held.run_id, held.signature, held.lineage)
    if claimed is not None:
        return RegistryEntry(claimed)
    raise Unavailable(
        f"The run that made {which} is not known: {problem}. Name the run_id in the request, "
        "or try again once the registry answers.",
        code="run_id_unknown",
    )


def _lineage(entry: RegistryEntry, held: Slot | None) -> Lineage:
    """The registered lineage, completed by what the record still knows."""
    if held is None or held.run_id != entry.run_id:
        return entry.lineage
    recorded = {name: value for name, value in asdict(entry.lineage).items() if value is not None}
    return Lineage(**asdict(held.lineage) | recorded)


def check_contract(wanted: str | None, slot: Slot, model_name: str) -> None:
    """Refuse (`Conflict`) features whose digest is not the `wanted` one, unless that is None."""
    read = slot.signature
    found = "unknown" if read is None else feature_contract(read.features, read.request)
    if wanted not in {None, found}:
        raise Conflict(
            f"The features of {model_name} version {slot.version} have the contract {found}, not "
            f"the requested {wanted}. Nothing was changed: compare the version's registration "
            "with the feature store.",
            code="feature_contract_mismatch",
        )


def _on_record(record: RoutingRecord, model_name: str, version: int) -> Slot | None:
    """The slot that the record holds for a version, now or before, in any variant."""
    for slot in [*record.variants.values(), *chain.from_iterable(record.previous.values())]:
        if slot.version == version and (slot.model_name or record.model_name) == model_name:
            return slot
    return None
