"""What a change does on its way to the record, with Triton and the feature store faked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import (
    DType,
    Feature,
    Lineage,
    Mode,
    ModelMetadata,
    ReloadRequest,
    RollbackRequest,
    RoutingRecord,
    Signature,
    Strategy,
    TensorDescription,
    Traffic,
    TrafficRequest,
    feature_contract,
)
from serving_gateway.control.control_plane import ControlPlane
from serving_gateway.control.record_writer import RecordWriter
from serving_gateway.control.registry import Registry, RegistryEntry
from serving_gateway.control.verification import VersionVerifier
from serving_gateway.errors import Conflict, GatewayError, RegistryUnavailable
from serving_gateway.features.reader import FeatureReader
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.version_client import VersionClient
from serving_gateway.replication.file_store import FileStore
from serving_gateway.replication.heartbeat import Heartbeat
from serving_gateway.replication.losses import LossReporter
from serving_gateway.replication.replicas import this_process
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import LabelledCounts
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.triton.cluster import TritonCluster, TritonClusters
from serving_gateway.triton.version_state import VersionState

SIGNATURE = Signature(
    (Feature("x", DType.FP32),), packed_input="features", feature_service="flowers"
)


class FakeRegistry(Registry):
    """Knows versions 1 to 3, unless it is down or they were deleted."""

    def __init__(self) -> None:
        self.down = False
        self.deleted: set[int] = set()
        self.lineage = Lineage()
        self.signature: Signature | None = SIGNATURE

    async def version(self, model_name: str, version: int) -> RegistryEntry | None:
        if self.down:
            raise RegistryUnavailable("down")
        known = version < 4 and version not in self.deleted
        return RegistryEntry(f"run-{version}", self.signature, self.lineage) if known else None

    async def aclose(self) -> None:
        """Nothing is held."""


class FakeFeatures:
    """A feature store that notes when it is told of a service, and by which generation."""

    def __init__(self) -> None:
        self.prepared: list[tuple[str, int]] = []
        self.generation: Callable[[], int] = lambda: 0

    async def prepare(self, *services: str) -> None:
        self.prepared.extend((one, self.generation()) for one in services)
        raise RuntimeError("it is broken")

    def read(self, *_: Any) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held."""


class Harness:
    """A control plane before a Triton that has all versions READY."""

    def __init__(self, home: Path) -> None:
        settings = Settings(state_dir=home, model_name="m")
        metrics = Metrics().model("m")
        tritons = TritonClusters(settings)
        self.metrics = metrics
        self.registry = FakeRegistry()
        self.features = FakeFeatures()
        self.features.generation = lambda: self.record.generation
        self.reader = FeatureReader(self.features)
        self.router = Router(
            "m",
            settings,
            tritons,
            Lifecycle(),
            metrics,
            ByteBudget(1 << 20),
            on_services=self.reader.expect,
        )
        self.store = FileStore(home)
        self.lost = LabelledCounts()
        self.heartbeat = Heartbeat(self.store, this_process(), keep_seconds=5, interval=1)
        self.control = ControlPlane(
            self.router,
            VersionVerifier(settings, self.router, self.registry, self.reader),
            RecordWriter(self.router, self.store, LossReporter(self.lost)),
            self.heartbeat,
            metrics,
        )

    @property
    def record(self) -> RoutingRecord:
        return self.router.table.record

    async def reload(self, version: int, **wishes: Any) -> Any:
        return await self.control.reload("A", ReloadRequest(version, **wishes), "test")

    async def reload_b(self, version: int) -> Any:
        return await self.control.reload("B", ReloadRequest(version), "test")

    async def traffic(self, strategy: Strategy, percent: float) -> Any:
        return await self.control.set_traffic(TrafficRequest(strategy, percent), "test")

    async def rollback(self, **wishes: Any) -> Any:
        return await self.control.rollback("A", RollbackRequest(**wishes), "test")


@pytest.fixture
async def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    async def ready_versions(*_: Any) -> tuple[int, ...]:
        return (1, 2, 3, 4)

    async def answer(*_: Any) -> None:
        pass

    async def warm_up(_: VersionClient) -> None:
        pass

    monkeypatch.setattr(TritonCluster, "ready_versions", ready_versions)

    async def metadata(*_: Any) -> ModelMetadata:
        inputs = (TensorDescription("features", "FP32", (-1, 1)),)
        return ModelMetadata("m", ("3",), inputs, (TensorDescription("label", "INT64", (-1,)),))

    monkeypatch.setattr(TritonCluster, "require_ready", answer)
    monkeypatch.setattr(VersionState, "probe", answer)
    monkeypatch.setattr(TritonCluster, "metadata", metadata)
    monkeypatch.setattr(VersionClient, "warm_up", warm_up)
    return Harness(tmp_path)


async def test_features_are_prepared_before_the_switch_and_never_refuse_it(
    harness: Harness,
) -> None:
    assert (await harness.reload(1)).generation == 1
    assert harness.features.prepared[0] == ("flowers", 0)
    await harness.reload(2)
    assert harness.features.prepared[-1] == ("flowers", 1)
    before = len(harness.features.prepared)
    assert (await harness.rollback()).generation == 3
    assert harness.features.prepared[before:] == [("flowers", 2)]


async def test_a_replica_that_follows_prepares_without_waiting(
    harness: Harness, tmp_path: Path
) -> None:
    await harness.reload(1)
    follower = Harness(tmp_path / "other")
    await follower.router.follow(harness.record)
    assert follower.features.prepared == [], "routing does not wait for it"
    for task in [*follower.reader._preparing]:
        await task
    assert follower.features.prepared == [("flowers", 1)]


KNOWN = Lineage("data", "code", "dagster", "onnx")


def effective(harness: Harness) -> dict[str, Any]:
    return msgspec.structs.asdict(harness.router.effective_versions()["A"])


async def test_where_a_version_came_from_is_recorded_and_reported(harness: Harness) -> None:
    harness.registry.lineage = KNOWN
    await harness.reload(1)
    slot = effective(harness)
    assert {name: slot[name] for name in msgspec.structs.asdict(KNOWN)} == {
        "data_fingerprint": "data",
        "code_version": "code",
        "dagster_run_id": "dagster",
        "onnx_sha256": "onnx",
    }
    assert slot["feature_contract"] == feature_contract(SIGNATURE.features)
    assert slot["signature"] == SIGNATURE


async def test_a_lineage_makes_no_generation_and_is_not_lost_with_the_registry(
    harness: Harness,
) -> None:
    harness.registry.lineage = Lineage(code_version="code")
    await harness.reload(1)
    harness.registry.lineage = KNOWN
    again = await harness.reload(1)
    assert (again.changed, again.generation) == (False, 1)
    await harness.reload(2)
    harness.registry.lineage = Lineage(code_version="newer")
    await harness.reload(2, mode=Mode.SSOT, unpin=True)
    assert harness.record.variants["A"].lineage == Lineage("data", "newer", "dagster", "onnx")
    harness.registry.down = True
    moved = await harness.reload(2, mode=Mode.PINNED)
    assert (moved.changed, moved.run_id_source) == (True, "record")
    assert harness.record.variants["A"].lineage == Lineage("data", "newer", "dagster", "onnx")
    assert harness.record.previous["A"][0].lineage == Lineage(code_version="code")


async def test_other_features_than_the_caller_names_are_refused(harness: Harness) -> None:
    contract = feature_contract(SIGNATURE.features)
    first = await harness.reload(1, feature_contract=contract)
    assert (first.version, first.other_ready_versions) == (1, (2, 3, 4))
    with pytest.raises(Conflict, match=f"{contract}.*{'0' * 64}") as caught:
        await harness.reload(2, feature_contract="0" * 64)
    assert caught.value.code == "feature_contract_mismatch"
    harness.registry.signature = None
    with pytest.raises(Conflict, match="unknown") as caught:
        await harness.reload(3, feature_contract=contract)
    assert caught.value.code == "feature_contract_mismatch"
    assert harness.record.generation == 1
    assert (await harness.reload(3)).version == 3, "who names none is not held to one"


async def test_a_rollback_may_name_any_registered_version_that_is_ready(harness: Harness) -> None:
    for version in (1, 2, 3):
        await harness.reload(version, mode=Mode.SSOT)
    back = await harness.rollback(version=1, reason="all later ones are wrong")
    assert (back.version, back.run_id, back.mode) == (1, "run-1", Mode.PINNED)
    assert back.other_ready_versions == (2, 3, 4)
    assert (back.previous_version, harness.record.reason) == (3, "all later ones are wrong")
    assert harness.record.previous["A"] == ()
    again = await harness.rollback(version=1)
    assert (again.changed, again.generation) == (False, back.generation)
    for wrong, code in ((4, "not_registered"), (5, "unknown_version"), (0, "out_of_range")):
        with pytest.raises(GatewayError) as caught:
            await harness.rollback(version=wrong)
        assert caught.value.code == code
    harness.registry.down = True
    with pytest.raises(GatewayError) as caught:
        await harness.rollback(version=5)
    assert caught.value.code == "version_not_ready"
    assert harness.record.generation == back.generation


async def test_a_rollback_needs_no_registry_for_a_version_that_the_record_holds(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 2):
        await harness.reload(version, mode=Mode.SSOT)
    harness.registry.deleted = {1, 2, 3}
    back = await harness.rollback(version=1)
    assert (back.version, back.run_id) == (1, "run-1")
    slot = harness.record.variants["A"]
    assert (slot.run_id_source, slot.signature) == ("record", SIGNATURE)
    assert "The registry no longer has m version 1" in caplog.text
    with pytest.raises(Conflict) as caught:
        await harness.reload(3)
    assert caught.value.code == "not_registered", "nobody vouches for one that never served"


def reads(*features: Feature, packed: str | None = "features") -> Signature:
    return Signature(features, packed_input=packed)


def keyed(*keys: str, request: str = "") -> Signature:
    """Features by these keys of a store, but for those in the request."""
    return Signature(
        (X, Y), "features", feature_service="s", join_keys=keys, request=tuple(request)
    )


X, Y = Feature("x", DType.FP32), Feature("y", DType.FP32)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (reads(X), reads(X, Y), "B reads y, which A does not"),
        (reads(X, Y), reads(X), "B does not read y, so rows by position have another width"),
        (reads(X, Y), reads(Y, X), "in another order: y, x"),
        (reads(X), reads(Feature("x", DType.FP64)), "x is FP32 for A and FP64 for B"),
        (reads(X), reads(X, packed="rows"), r"features \(FP32, 1 wide\), and B rows"),
        (reads(X, Y), reads(X, Y, packed=None), "the tensors"),
        (reads(Feature("x", DType.FP32, nullable=True)), reads(X), "x may be null for A"),
        (keyed("c"), keyed("c", request="xy"), "B takes x, y from the request, and A does not"),
        (keyed("c"), keyed("d"), "of A are read by c, and those of B by d"),
        (keyed(), keyed("c", "d"), "of A are read by one key, and those of B by c, d"),
        (keyed("c", "d"), keyed(), "of A are read by c, d, and those of B by one key"),
    ],
)
async def test_a_split_to_a_variant_that_reads_otherwise_is_refused(
    harness: Harness, a: Signature, b: Signature, said: str
) -> None:
    harness.registry.signature = a
    await harness.reload(1)
    harness.registry.signature = b
    await harness.reload_b(2)
    with pytest.raises(Conflict, match=said) as caught:
        await harness.traffic(Strategy.SPLIT, 10)
    assert caught.value.code == "incompatible_variants"
    assert harness.record.traffic == Traffic()
    assert (await harness.traffic(Strategy.MIRROR, 10)).changed, "failed copies are counted"
    assert (await harness.traffic(Strategy.SPLIT, 0)).changed, "no client is answered by B"
    # B moves while a split is on.
    harness.registry.signature = a
    await harness.reload_b(3)
    assert (await harness.traffic(Strategy.SPLIT, 10)).changed
    harness.registry.signature = b
    generation = harness.record.generation
    for move in (harness.reload_b(1), harness.control.rollback("B", RollbackRequest(), "test")):
        with pytest.raises(Conflict, match=said):
            await move
    assert harness.record.generation == generation


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (keyed("c", "d"), keyed("d", "c")),
        (keyed(), keyed("c")),
        (keyed("c"), keyed()),
        (keyed("c", request="x"), keyed("c")),
        (reads(X, Y), keyed("c", "d", request="x")),
    ],
)
async def test_a_split_to_a_variant_that_takes_the_same_requests_is_accepted(
    harness: Harness, a: Signature, b: Signature
) -> None:
    harness.registry.signature = a
    await harness.reload(1)
    harness.registry.signature = b
    await harness.reload_b(2)
    assert (await harness.traffic(Strategy.SPLIT, 10)).changed


async def test_signatures_that_are_not_recorded_are_compared_by_the_metadata(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.registry.signature = None
    widths = {1: 1, 2: 2, 3: 1}

    async def metadata(*arguments: Any) -> ModelMetadata:
        version = arguments[-1]
        inputs = (TensorDescription("features", "FP32", (-1, widths[version])),)
        outputs = (TensorDescription("label", "INT64", (-1,)),)
        return ModelMetadata("m", (str(version),), inputs, outputs)

    monkeypatch.setattr(TritonCluster, "metadata", metadata)
    await harness.reload(1)
    await harness.reload_b(2)
    with pytest.raises(Conflict, match=r"features \(FP32, 1 wide\), and B features \(FP32, 2 wide"):
        await harness.traffic(Strategy.SPLIT, 10)
    await harness.reload_b(3)
    assert (await harness.traffic(Strategy.SPLIT, 10)).changed


async def test_variant_b_is_cleared_with_its_traffic(harness: Harness) -> None:
    await harness.reload(1)
    await harness.reload_b(2)
    await harness.traffic(Strategy.SPLIT, 10)
    done = await harness.control.clear_variant("B", force=False, by="token:ci", reason="over")
    assert (done.version, done.changed, done.traffic_turned_off) == (2, True, True)
    assert (done.traffic, set(harness.record.variants)) == (Traffic(), {"A"})
    assert (harness.record.changed_by, harness.record.reason) == ("token:ci", "over")
    again = await harness.control.clear_variant("B", force=False, by="test", reason=None)
    assert (again.version, again.changed, again.traffic_turned_off) == (None, False, False)
    assert again.generation == done.generation
    back = await harness.control.rollback("B", RollbackRequest(), "test")
    assert back.version == 2
    with pytest.raises(Conflict) as caught:
        await harness.control.clear_variant("A", force=True, by="test", reason=None)
    assert caught.value.code == "production_variant"
    with pytest.raises(GatewayError) as unknown:
        await harness.control.clear_variant("C", force=True, by="test", reason=None)
    assert unknown.value.code == "unknown_variant"


async def test_a_variant_with_traffic_on_any_replica_is_not_taken_away(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.reload(1)
    await harness.reload_b(2)
    other = Harness(tmp_path)
    await other.router.follow(harness.record)
    other.metrics.variant("A", 1).fail()
    other.metrics.variant("B", 2).answer(0.1, 1)
    await other.heartbeat.beat({"m": other.router.report()})
    for call in (
        harness.control.clear_variant("B", force=False, by="test", reason=None),
        harness.control.remove(force=False, by="test", reason=None),
    ):
        with pytest.raises(Conflict, match=other.heartbeat.identity.id) as caught:
            await call
        assert caught.value.code == "variant_has_traffic"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    await other.heartbeat.beat({"m": other.router.report()})
    assert (await harness.control.clear_variant("B", force=False, by="t", reason=None)).changed
    other.metrics.variant("A", 1).answer(0.1, 1)
    await other.heartbeat.beat({"m": other.router.report()})
    forced = await harness.control.remove(force=True, by="test", reason=None)
    assert (forced.versions, forced.changed) == ({"A": 1}, True)
    assert (await harness.store.read("m")).removed
    back = await harness.reload(3)
    assert back.generation == forced.generation + 1
    assert not harness.record.removed


async def test_a_change_on_what_a_store_lost_reports_what_it_drops(
    harness: Harness, tmp_path: Path
) -> None:
    await harness.reload(1)
    first = harness.store.path("m").read_bytes()
    await harness.reload(2)
    other = Harness(tmp_path)
    harness.store.path("m").write_bytes(first)  # a restore lost generation 2
    await other.router.follow(await other.store.read("m"))
    await other.reload(3)
    assert (other.record.generation, other.record.variants["A"].version) == (2, 3)
    await harness.reload(1)
    assert harness.record.generation == 3
    assert harness.lost.labels("dropped").value == 1


async def test_a_hanging_feature_store_delays_no_switch(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness.reader, "prepare_seconds", 0.05)

    async def hang(*_: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(harness.features, "prepare", hang)
    async with asyncio.timeout(2):
        assert (await harness.reload(1)).changed
    await harness.reader.aclose()
