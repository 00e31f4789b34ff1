"""A Triton inside the test's event loop, without a server: for tests of what lies before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from serving_gateway.batching import ByteBudget
from serving_gateway.contract import Mode, Release, RoutingRecord, Signature, Slot, Traffic
from serving_gateway.errors import GatewayError, InferenceRefused
from serving_gateway.inference.dispatcher import Dispatcher
from serving_gateway.inference.mirror import Mirror
from serving_gateway.inference.offload import Offload
from serving_gateway.inference.open_inference import OpenInference
from serving_gateway.inference.prediction import Predictor
from serving_gateway.inference.protocol_response import ProtocolResponse
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.inference.router import Router
from serving_gateway.inference.shadow import ShadowStatistics
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import Metrics
from serving_gateway.triton.exchange import TritonResponse
from serving_gateway.triton.version_state import VersionState
from tests.support.stub_model import SIGNATURE, StubModel


class FakeCall:
    """One inference under way; the test may answer it itself."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self.answer = answer
        self.abandoned: list[bool] = []

    def abandon(self, *, overdue: bool = False) -> bool:
        """Note that the gateway does not wait any more."""
        self.abandoned.append(overdue)
        return True


class FakeTriton:
    """Stands for the pool and for every cluster in it.

    Attributes:
        model: answers all versions.
        holds: versions whose inferences wait until the test answers them.
        errors: what the inferences of a version end with.
        calls: all inferences, in order.
    """

    url = authority = "http://fake"
    prefix = ""
    tracing = None

    def __init__(self) -> None:
        self.model = StubModel()
        self.holds: set[int] = set()
        self.errors: dict[int, GatewayError] = {}
        self.calls: list[FakeCall] = []
        self.asked: list[int] = []
        self.repeatable: list[bool] = []
        self.deadlines: list[float] = []
        self._states: dict[tuple[str, int], VersionState] = {}

    def get(self, url: str) -> Self:
        """Whatever the address."""
        return self

    def version(self, model_name: str, version: int) -> VersionState:
        """The version's state: READY until the test says otherwise."""
        state = self._states.get((model_name, version))
        if state is None:
            state = self._states[model_name, version] = VersionState(model_name, version, [])
            state.ready = True
        return state

    def infer(
        self,
        state: VersionState,
        request: bytes,
        deadline: float,
        done: Callable[[TritonResponse | GatewayError], None],
        repeatable: bool = True,
    ) -> FakeCall:
        """Answer on the next turn of the loop, or when the test says so."""
        version = state.version
        self.repeatable.append(repeatable)
        self.deadlines.append(deadline)
        self.asked.append(version)
        body = request.partition(b"\r\n\r\n")[2]

        def answer() -> None:
            if call.abandoned:
                return
            error = self.errors.get(version)
            if error is not None:
                done(error)
                return
            status, size, content = self.model.answer(version, body)
            if status == 200:
                done(TritonResponse(status, size, content))
            else:
                done(InferenceRefused(content.decode()))

        call = FakeCall(answer)
        self.calls.append(call)
        if version not in self.holds:
            asyncio.get_running_loop().call_soon(answer)
        return call


class Outcome:
    """A sink that keeps what it gets."""

    is_traffic = True
    traceparent: bytes | None = None
    span: Any = None

    def __init__(self) -> None:
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Many are never awaited; what asyncio would say of those at their end disturbs other tests.
        self.ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self.prediction_id: str | None = None
        """Of an inference of the protocol."""

    def succeed(self, body: bytes) -> None:
        """A prediction."""
        self.ended.set_result(body)

    def respond(
        self, response: ProtocolResponse, variant: str, version: int, prediction_id: str
    ) -> None:
        """An inference of the protocol."""
        self.prediction_id = prediction_id
        self.ended.set_result((response, variant, version))

    def fail(self, error: GatewayError) -> None:
        """The reason why there is neither."""
        self.ended.set_exception(error)

    def __await__(self) -> Any:
        return asyncio.wait_for(self.ended, 10).__await__()


class FakeTritonPlane:
    """The data plane of model `m` before a `FakeTriton`, everything real but Triton."""

    def __init__(self, home: Path, features: Any = None, **settings: Any) -> None:
        self.settings = Settings(
            **{"state_dir": home, "model_name": "m", "mirror_gather_seconds": 0, **settings}
        )
        self.triton = FakeTriton()
        self.metrics = Metrics().model("m")
        self.queue_budget = ByteBudget(self.settings.max_queued_bytes)
        self.mirror_budget = ByteBudget(self.settings.mirror_queue_bytes)
        self.router = Router(
            "m",
            self.settings,
            cast(Any, self.triton),
            Lifecycle(),
            self.metrics,
            self.queue_budget,
        )
        self.ledger = ShadowStatistics(5, 5.0)
        self.offload = Offload(self.queue_budget)
        self.mirror = Mirror(
            self.settings, self.router, self.metrics, self.ledger, self.mirror_budget, self.offload
        )
        self.woken = 0
        self.probed = 0
        self.dispatcher = Dispatcher(
            self.router, self._wake, self._probe, self.metrics.fallbacks.inc, self.offload
        )
        self.predictor = Predictor(
            self.settings, self.dispatcher, self.mirror, self.metrics, features
        )
        self.open_inference = OpenInference(self.settings, self.dispatcher)

    def _wake(self) -> None:
        self.woken += 1

    def _probe(self) -> None:
        self.probed += 1

    def route(
        self,
        traffic: Traffic | None = None,
        signatures: dict[str, Signature] | None = None,
        release: Release | None = None,
        **versions: int,
    ) -> None:
        """Adopt a next generation that routes to these versions, by variant."""
        slots = {
            alias: Slot(
                version,
                f"run-{version}",
                "registry",
                Mode.SSOT,
                (signatures or {}).get(alias, SIGNATURE),
            )
            for alias, version in versions.items()
        }
        generation = self.router.table.record.generation + 1
        self.router.adopt(
            RoutingRecord(
                model_name="m",
                generation=generation,
                variants=slots,
                traffic=traffic or Traffic(),
                release=release,
            )
        )

    def predict(self, body: bytes) -> Outcome:
        """Begin a prediction."""
        outcome = Outcome()
        self.predictor.submit(body, outcome)
        return outcome

    def infer(
        self, body: bytes, header_length: int | None = None, version: int | None = None
    ) -> Outcome:
        """Begin an inference of the protocol."""
        outcome = Outcome()
        self.open_inference.submit("m", version, None, body, header_length, outcome)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.mirror.close()
        self.offload.close()
