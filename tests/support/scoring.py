"""Servers for tests of batch scoring that need none: what they answer is computed here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.features.records import FeatureData
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.triton import TritonRefused, TritonResource
from serving_gateway.contract import EffectiveVersion, ModelStatus, Signature
from tests.support.chain import UNREACHABLE
from tests.support.model_status import effective_version, model_status
from tests.support.several_tables import BEGIN, Tables

if TYPE_CHECKING:
    from platform_assets.resources.triton_endpoint import Infer

Tensors = Mapping[str, np.ndarray[Any, Any]]
VERSION = 7
RUN_ID = f"run-{VERSION}"


@dataclass
class FakeEndpoint:
    """A Triton that answers by `answer`, and has no version READY any more after `lasts` parts."""

    answer: Callable[[Tensors], dict[str, np.ndarray[Any, Any]]]
    lasts: int = 1_000_000
    sizes: list[int] = field(default_factory=list)

    @contextmanager
    def connection(self, _doing: str) -> Iterator[Infer]:
        def infer(
            model_name: str, version: int, inputs: Tensors, _outputs: Sequence[str]
        ) -> dict[str, np.ndarray[Any, Any]]:
            if len(self.sizes) >= self.lasts:
                raise TritonRefused(
                    f"{model_name} version {version} is not READY", status=400, reason=""
                )
            self.sizes.append(len(next(iter(inputs.values()))))
            return self.answer(inputs)

        yield infer


def serve(
    monkeypatch: pytest.MonkeyPatch,
    statuses: Sequence[ModelStatus],
    ready: Collection[int] = (VERSION,),
    endpoints: Sequence[FakeEndpoint] = (),
) -> tuple[GatewayResource, TritonResource]:
    """Let gateways report these statuses, and let Triton have these versions READY."""
    monkeypatch.setattr(GatewayResource, "model_statuses", lambda _self, _name: list(statuses))
    monkeypatch.setattr(TritonResource, "version_ready", lambda _self, _name, one: one in ready)
    monkeypatch.setattr(TritonResource, "endpoints", lambda _self: tuple(endpoints))
    return (
        GatewayResource(urls=UNREACHABLE, control_token=""),
        TritonResource(url=UNREACHABLE, control_key=""),
    )


def routed(
    spec: ModelSpec, version: int = VERSION, signature: Signature | None = None
) -> ModelStatus:
    """What a replica answers that routes A to a version."""
    effective = effective_version(version, model_name=spec.model_name)
    chosen = signature or spec.signature(spec.target.classes)
    values = {name: getattr(effective, name) for name in EffectiveVersion.__struct_fields__}
    slot = EffectiveVersion(**(values | {"signature": chosen}))
    return model_status({"A": slot}, model_name=spec.model_name)


def data_of(name: str, columns: Mapping[str, Any], folder: Path) -> FeatureData:
    """A feature file as the asset `features` writes it."""
    table = pa.table(dict(columns)).replace_schema_metadata({"serving.data_fingerprint": "f"})
    path = folder / f"{name}.parquet"
    parquet.write_table(table, path)
    rows = table.num_rows
    return FeatureData(name, "test", str(path), "", rows, len(table[0].unique()), "f")


def customers_data(drawn: Tables, folder: Path) -> FeatureData:
    """The feature file of the customers."""
    names = ("customer_id", "seen", "age", "region")
    columns = dict(zip(names, map(list, zip(*drawn.customers, strict=True)), strict=True))
    columns["seen"] = pa.array(columns["seen"], pa.timestamp("us", "UTC"))
    return data_of("customers", columns, folder)


def shops_data(drawn: Tables, folder: Path) -> FeatureData:
    """The feature file of the shops, whose rows have no time of their own."""
    shops = drawn.shops
    columns = {
        "shop_id": [*shops],
        "event_timestamp": pa.array([BEGIN] * len(shops), pa.timestamp("us", "UTC")),
        "risk": pa.array([*shops.values()], pa.float32()),
    }
    return data_of("shops", columns, folder)
