"""The routing record: the revisioned document that all replicas route by."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from serving_gateway.contract.release import Release
from serving_gateway.contract.signature import Lineage, Signature
from serving_gateway.contract.struct import Struct
from serving_gateway.contract.traffic import Traffic

RECORD_SCHEMA: Final = 1
SWITCH_REASON_CHARACTERS: Final = 500
"""Of a reason among the switches, so that the record stays small; the newest is kept whole."""


class Mode(StrEnum):
    """How a variant got its version."""

    SSOT = "ssot"
    """By a reload that followed Triton, or by the pipeline's promotion."""
    PINNED = "pinned"
    """By an operator's explicit choice or a rollback; automation never overrides it silently."""


class Slot(Struct, frozen=True):
    """The version that a variant routes to, and where that choice came from."""

    version: int
    run_id: str
    run_id_source: str
    """`registry`, `caller` or `record`: what confirmed `run_id` when the slot was taken."""
    mode: Mode
    signature: Signature | None = None
    """None when the registry could not be asked: Triton's own metadata is then used instead."""
    model_name: str | None = None
    """Another Triton model than the record's, for a variant that lives beside it."""
    triton_url: str | None = None
    """Another Triton than the gateway's default one."""
    lineage: Lineage = Lineage()


class Switch(Struct, frozen=True):
    """The move of a variant onto another version that made a generation."""

    generation: int
    version: int
    run_id: str
    mode: Mode
    previous_version: int | None
    after: int
    """Generation of the variant's switch before this one; 0 for the first."""
    at: str
    by: str
    reason: str | None


class RoutingRecord(Struct, frozen=True):
    """The revisioned document that all replicas route by.

    `generation` grows by one with each accepted change (0: nothing was ever routed). Per variant,
    newest first, `previous` holds the slots that a rollback goes to, and takes away; `switches`
    the moves in either direction, for readers that look only from time to time. Times are RFC
    3339 in UTC.
    """

    model_name: str
    generation: int = 0
    variants: dict[str, Slot] = msgspec.field(default_factory=dict)
    traffic: Traffic = msgspec.field(default_factory=Traffic)
    previous: dict[str, tuple[Slot, ...]] = msgspec.field(default_factory=dict)
    changed_at: str | None = None
    changed_by: str | None = None
    reason: str | None = None
    schema: int = RECORD_SCHEMA
    switches: dict[str, tuple[Switch, ...]] = msgspec.field(default_factory=dict)
    ancestors: tuple[Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}:")], ...] = ()
    """`<generation>:<digest>` of the records that this one came from, newest first, so that a
    replica notices that a change of its own was lost on the way."""
    removed: bool = False
    """Then replicas stop hosting the model. The record stays, so that none takes the removal for
    a loss and writes an older record back."""
    release: Release | None = None
    """The present release, or the last one; None when there never was one."""

    @property
    def is_routed(self) -> bool:
        """Whether replicas host the model: something was routed, and it was not removed since."""
        return self.generation > 0 and not self.removed
