"""What the data plane does when the table changes under a request.

The moment cannot be hit on purpose with real servers; that switches and retirements under load
fail no request is tested on them in test_gateway_faults.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from serving_gateway.inference.batcher import Origin

from serving_gateway.contract import (
    DType,
    Feature,
    FeatureSource,
    Mode,
    PredictRequest,
    PredictResponse,
    RoutingRecord,
    ShadowSide,
    Signature,
    Slot,
    Strategy,
    Traffic,
)
from serving_gateway.errors import (
    EntityUnusable,
    InferenceRefused,
    TritonUnavailable,
    VariantUnavailable,
)
from serving_gateway.inference.codec import Answers, Tensors
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.prediction import DataPlane
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router, RoutingTable, Target
from serving_gateway.inference.rows import FloatRequest
from serving_gateway.inference.shadow import Ledger
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.triton.client_pool import TritonClientPool

SIGNATURE = Signature((Feature("x", DType.FP32),), packed_input="features")


def record(version: int) -> RoutingRecord:
    slot = Slot(version, f"run-{version}", "registry", Mode.SSOT, SIGNATURE)
    return RoutingRecord(model_name="m", generation=version, variants={"A": slot})


def serving_of(settings: Settings, metrics: ModelMetrics) -> Router:
    tritons = TritonClientPool(connections=2, connect_seconds=1)
    return Router("m", settings, tritons, Lifecycle(), metrics)


class Switching(DataPlane):
    """Version 1 is retired while it is asked; the table moves on to version 2, or does not."""

    moves_on = True
    router: Router

    async def _ask(
        self,
        table: RoutingTable,
        target: Target,
        request: PredictRequest | FloatRequest,
        origin: Origin | None,
        *,
        copy: bool = False,
    ) -> PredictResponse:
        version = target.slot.version
        if version == 1:
            if self.moves_on:
                self.router.adopt(record(2))
            raise VariantUnavailable("retired")
        return PredictResponse(
            [version],
            None,
            "m",
            "A",
            version,
            "run",
            table.record.generation,
            FeatureSource.PAYLOAD,
        )


@pytest.fixture
async def plane(tmp_path: Path) -> Switching:
    settings = Settings(state_dir=tmp_path, model_name="m")
    metrics = Metrics().model("m")
    router = serving_of(settings, metrics)
    router.adopt(record(1))
    mirror = Mirror(metrics, Ledger(0), queue=1, in_flight=1, gather_seconds=0)
    plane = Switching(settings, router, mirror, lambda: None, metrics)
    plane.router = router
    return plane


async def test_a_request_whose_version_is_retired_meanwhile_gets_the_next(
    plane: Switching,
) -> None:
    answer = await plane.predict(FloatRequest([[1.0]]))
    assert (answer.version, answer.generation) == (2, 2)


async def test_a_version_that_is_gone_without_a_successor_is_told(plane: Switching) -> None:
    plane.moves_on = False
    with pytest.raises(VariantUnavailable, match="retired"):
        await plane.predict(FloatRequest([[1.0]]))


@pytest.mark.parametrize(("most", "merged"), [(3, 3), (1024, 64), (0, 1)])
async def test_no_more_rows_are_merged_than_the_version_takes(
    plane: Switching, most: int, merged: int
) -> None:
    signature = Signature(SIGNATURE.features, "features", max_batch_rows=most)
    slot = Slot(9, "run-9", "registry", Mode.SSOT, signature)
    coalescer = plane.router.client(slot).coalescer
    assert coalescer is not None
    assert coalescer.max_rows == merged


class Mirroring:
    """A data plane that mirrors everything from version 1 to version 2; nobody is asked."""

    def __init__(self, home: Path) -> None:
        settings = Settings(state_dir=home, model_name="m")
        metrics, self.ledger = Metrics().model("m"), Ledger(5)
        router = serving_of(settings, metrics)
        self.mirror = Mirror(metrics, self.ledger, queue=1, in_flight=1, gather_seconds=0)
        self.plane = DataPlane(settings, router, self.mirror, lambda: None, metrics)
        slots = {
            alias: Slot(version, "run", "registry", Mode.SSOT, SIGNATURE)
            for alias, version in (("A", 1), ("B", 2))
        }
        router.adopt(
            RoutingRecord(
                model_name="m",
                generation=1,
                variants=slots,
                traffic=Traffic(Strategy.MIRROR, 100),
            )
        )
        self.targets = router.table.targets
        for target in self.targets.values():
            target.client.mark_ready()


@pytest.fixture
async def mirroring(tmp_path: Path) -> Mirroring:
    return Mirroring(tmp_path)


def has_failed(mirroring: Mirroring, count: int) -> bool:
    return mirroring.ledger.page.failed == count


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- plain numbers tell nobody
            await asyncio.sleep(0)


async def test_a_mirrored_request_is_encoded_once(
    mirroring: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []

    async def answered(tensors: Tensors, *_: object) -> Answers:
        encoded.append(tensors)
        return Answers([7], None)

    for target in mirroring.targets.values():
        monkeypatch.setattr(target.client.coalescer, "submit", answered)
    working = asyncio.create_task(mirroring.mirror.run())
    await mirroring.plane.predict(FloatRequest([[1.0]]))
    await settled(lambda: mirroring.ledger.page.comparison.requests == 1)
    working.cancel()
    ours, theirs = encoded
    assert ours is theirs
    assert mirroring.ledger.page.comparison.agreed == 1


@pytest.mark.parametrize("problem", [TritonUnavailable("gone"), RuntimeError("a bug")])
async def test_a_copy_that_fails_is_told_and_the_next_one_is_made(
    mirroring: Mirroring, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    async def at_once(*_: object) -> Answers:
        return Answers([7], None)

    async def fails(*_: object) -> Answers:
        raise problem

    monkeypatch.setattr(mirroring.targets["A"].client.coalescer, "submit", at_once)
    monkeypatch.setattr(mirroring.targets["B"].client.coalescer, "submit", fails)
    working = asyncio.create_task(mirroring.mirror.run())
    for count in (1, 2):
        answer = await mirroring.plane.predict(FloatRequest([[1.0]]))
        assert answer.predictions == [7]
        await settled(partial(has_failed, mirroring, count))
    working.cancel()
    assert mirroring.ledger.page.comparison.requests == 0


async def test_an_answer_of_a_former_pairing_does_not_reach_the_page_of_the_next(
    mirroring: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()

    async def at_once(*_: object) -> Answers:
        return Answers([7], None)

    async def late(*_: object) -> Answers:
        await release.wait()
        return Answers([7], None)

    monkeypatch.setattr(mirroring.targets["A"].client.coalescer, "submit", at_once)
    monkeypatch.setattr(mirroring.targets["B"].client.coalescer, "submit", late)
    working = asyncio.create_task(mirroring.mirror.run())
    await mirroring.plane.predict(FloatRequest([[1.0]]))
    former = mirroring.ledger.page
    page = mirroring.ledger.open(
        (ShadowSide("m", 1, "run"), ShadowSide("m", 3, "run")), lambda: "now"
    )
    release.set()
    await settled(lambda: former.comparison.requests == 1)
    working.cancel()
    assert page.comparison.requests == 0


async def test_an_older_record_is_never_adopted(plane: Switching) -> None:
    plane.router.adopt(record(5))
    plane.router.adopt(record(4))
    assert plane.router.still_served() == {"A": 5}


async def test_only_the_copies_that_do_not_fit_are_told_to_have_failed(
    mirroring: Mirroring, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def at_once(_: Tensors, rows: int, *__: object) -> Answers:
        return Answers([7] * rows, None)

    async def refuses(tensors: Tensors, rows: int, *_: object) -> Answers:
        asked.append(rows)
        if struct.pack("<f", 2.0) in tensors[0]:
            raise InferenceRefused("two is too much", upstream_status=400)
        return Answers([7] * rows, None)

    monkeypatch.setattr(mirroring.targets["A"].client.coalescer, "submit", at_once)
    monkeypatch.setattr(mirroring.targets["B"].client.coalescer, "submit", refuses)
    mirroring.mirror._limit = 3
    for number in (1.0, 2.0, 3.0):
        await mirroring.plane.predict(FloatRequest([[number]]))
    working = asyncio.create_task(mirroring.mirror.run())
    page = mirroring.ledger.page
    await settled(lambda: page.comparison.requests + page.failed == 3)
    working.cancel()
    assert (asked, page.comparison.agreed, page.failed) == ([3, 1, 1, 1], 2, 1)


class Lacking(DataPlane):
    """B's features are not there for this entity; A answers."""

    async def _ask(
        self,
        table: RoutingTable,
        target: Target,
        request: PredictRequest | FloatRequest,
        origin: Origin | None,
        *,
        copy: bool = False,
    ) -> PredictResponse:
        if target.variant == "B":
            raise EntityUnusable("B has no values", field="entity_id")
        version, generation = target.slot.version, table.record.generation
        return PredictResponse([1], None, "m", "A", version, "run", generation, FeatureSource.FEAST)


async def test_a_answers_for_an_entity_that_only_b_lacks(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, model_name="m")
    metrics = Metrics().model("m")
    router = serving_of(settings, metrics)
    slots = {alias: Slot(1, "run", "registry", Mode.SSOT, SIGNATURE) for alias in "AB"}
    traffic = Traffic(Strategy.SPLIT, 100)
    router.adopt(RoutingRecord(model_name="m", generation=1, variants=slots, traffic=traffic))
    mirror = Mirror(metrics, Ledger(0), queue=1, in_flight=1, gather_seconds=0)
    plane = Lacking(settings, router, mirror, lambda: None, metrics)
    answer = await plane.predict(PredictRequest(entity_id=1, client_id="c"))
    assert answer.variant == "A"
    assert "B has no values" in (answer.fallback or "")
