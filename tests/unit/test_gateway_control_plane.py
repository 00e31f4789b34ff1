"""What a change does on its way to the record, with Triton and the feature store played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving_gateway.triton.client import Triton

from serving_gateway.contract import (
    DType,
    Feature,
    Lineage,
    Mode,
    ReloadRequest,
    RollbackRequest,
    RoutingRecord,
    Signature,
    feature_contract,
)
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.registry import Registered
from serving_gateway.errors import Conflict, GatewayError, RegistryUnavailable
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.codec import Answers
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication.store import FileStore
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.triton.client_pool import TritonClientPool
from serving_gateway.triton.protocol import ModelMetadata, TensorMetadata

SIGNATURE = Signature(
    (Feature("x", DType.FP32),), packed_input="features", feature_service="flowers"
)


class PlayedRegistry:
    """Knows versions 1 to 3, unless it is down."""

    def __init__(self) -> None:
        self.down = False
        self.lineage = Lineage()
        self.signature: Signature | None = SIGNATURE

    async def version(self, model_name: str, version: int) -> Registered | None:
        if self.down:
            raise RegistryUnavailable("down")
        return Registered(f"run-{version}", self.signature, self.lineage) if version < 4 else None

    async def aclose(self) -> None:
        """Nothing is held."""


class PlayedFeatures:
    """A feature store that notes when it is told of a service, and by which generation."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.generation: Callable[[], int] = lambda: 0

    async def prepare(self, *services: str) -> None:
        self.told.extend((one, self.generation()) for one in services)
        raise RuntimeError("it is broken")

    def read(self, *_: Any) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held."""


class Played:
    """A control plane before a Triton that has all versions READY."""

    def __init__(self, home: Path) -> None:
        settings = Settings(state_dir=home, model_name="m")
        metrics = Metrics().model("m")
        tritons = TritonClientPool(connections=2, connect_seconds=1)
        self.router = Router("m", settings, tritons, Lifecycle(), metrics)
        self.registry = PlayedRegistry()
        self.features = PlayedFeatures()
        self.features.generation = lambda: self.record.generation
        self.reader = FeatureReader(self.features)
        self.router.on_services = self.reader.expect
        store = FileStore(home, "m")
        self.control = ControlPlane(
            settings, self.router, store, self.registry, metrics, self.reader
        )

    @property
    def record(self) -> RoutingRecord:
        return self.router.table.record

    async def reload(self, version: int, **wishes: Any) -> Any:
        return await self.control.reload("A", ReloadRequest(version, **wishes), "test")

    async def rollback(self, **wishes: Any) -> Any:
        return await self.control.rollback("A", RollbackRequest(**wishes), "test")


@pytest.fixture
async def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    async def ready_versions(*_: Any) -> tuple[int, ...]:
        return (1, 2, 3, 4)

    async def version_ready(*_: Any) -> bool:
        return True

    async def warm_up(_: VersionClient) -> Answers:
        return Answers([0], None)

    monkeypatch.setattr(Triton, "ready_versions", ready_versions)

    async def metadata(*_: Any) -> ModelMetadata:
        inputs = (TensorMetadata("features", "FP32", (-1, 1)),)
        return ModelMetadata("m", ("3",), inputs, (TensorMetadata("label", "INT64", (-1,)),))

    monkeypatch.setattr(Triton, "version_ready", version_ready)
    monkeypatch.setattr(Triton, "metadata", metadata)
    monkeypatch.setattr(VersionClient, "warm_up", warm_up)
    return Played(tmp_path)


async def test_features_are_prepared_before_the_switch_and_never_refuse_it(played: Played) -> None:
    assert (await played.reload(1)).generation == 1
    assert played.features.told[0] == ("flowers", 0)
    await played.reload(2)
    assert played.features.told[-1] == ("flowers", 1)
    told = len(played.features.told)
    assert (await played.rollback()).generation == 3
    assert played.features.told[told:] == [("flowers", 2)]


async def test_a_replica_that_follows_prepares_without_waiting(
    played: Played, tmp_path: Path
) -> None:
    await played.reload(1)
    follower = Played(tmp_path / "other")
    await follower.router.follow(played.record)
    assert follower.features.told == [], "routing does not wait for it"
    for task in [*follower.reader._preparing]:
        await task
    assert follower.features.told == [("flowers", 1)]


KNOWN = Lineage("data", "code", "dagster", "onnx")


def effective(played: Played) -> dict[str, Any]:
    return msgspec.structs.asdict(played.router.effective()["A"])


async def test_where_a_version_came_from_is_recorded_and_told(played: Played) -> None:
    played.registry.lineage = KNOWN
    await played.reload(1)
    told = effective(played)
    assert {name: told[name] for name in msgspec.structs.asdict(KNOWN)} == {
        "data_fingerprint": "data",
        "code_version": "code",
        "dagster_run_id": "dagster",
        "onnx_sha256": "onnx",
    }
    assert told["feature_contract"] == feature_contract(SIGNATURE.features)
    assert told["signature"] == SIGNATURE


async def test_a_lineage_makes_no_generation_and_is_not_lost_with_the_registry(
    played: Played,
) -> None:
    played.registry.lineage = Lineage(code_version="code")
    await played.reload(1)
    played.registry.lineage = KNOWN
    again = await played.reload(1)
    assert (again.changed, again.generation) == (False, 1)
    await played.reload(2)
    played.registry.lineage = Lineage(code_version="newer")
    await played.reload(2, mode=Mode.SSOT, unpin=True)
    assert played.record.variants["A"].lineage == Lineage("data", "newer", "dagster", "onnx")
    played.registry.down = True
    moved = await played.reload(2, mode=Mode.PINNED)
    assert (moved.changed, moved.run_id_source) == (True, "record")
    assert played.record.variants["A"].lineage == Lineage("data", "newer", "dagster", "onnx")
    assert played.record.previous["A"][0].lineage == Lineage(code_version="code")


async def test_other_features_than_the_caller_names_are_refused(played: Played) -> None:
    contract = feature_contract(SIGNATURE.features)
    assert (await played.reload(1, feature_contract=contract)).version == 1
    with pytest.raises(Conflict, match=f"{contract}.*{'0' * 64}") as caught:
        await played.reload(2, feature_contract="0" * 64)
    assert caught.value.code == "feature_contract_mismatch"
    played.registry.signature = None
    with pytest.raises(Conflict, match="unknown") as caught:
        await played.reload(3, feature_contract=contract)
    assert caught.value.code == "feature_contract_mismatch"
    assert played.record.generation == 1
    assert (await played.reload(3)).version == 3, "who names none is not held to one"


async def test_a_rollback_may_name_any_registered_version_that_is_ready(played: Played) -> None:
    for version in (1, 2, 3):
        await played.reload(version, mode=Mode.SSOT)
    back = await played.rollback(version=1, reason="all later ones are wrong")
    assert (back.version, back.run_id, back.mode) == (1, "run-1", Mode.PINNED)
    assert (back.previous_version, played.record.reason) == (3, "all later ones are wrong")
    assert played.record.previous["A"] == ()
    again = await played.rollback(version=1)
    assert (again.changed, again.generation) == (False, back.generation)
    for wrong, code in ((4, "not_registered"), (5, "unknown_version"), (0, "out_of_range")):
        with pytest.raises(GatewayError) as caught:
            await played.rollback(version=wrong)
        assert caught.value.code == code
    played.registry.down = True
    with pytest.raises(GatewayError) as caught:
        await played.rollback(version=5)
    assert caught.value.code == "version_not_ready"
    assert played.record.generation == back.generation
