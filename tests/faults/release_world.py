"""Releases on the real servers: one Triton, two gateways on Redis behind HAProxy, and the pilot.

The pilot ticks as the sensor `release_pilot` has it, but several times a second and by the test's
clock. What the sensor's daemon does with the results, to store events and to launch the run that
switches, is done here by the same calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import dagster as dg
from msgspec.structs import replace

from platform_assets.ledger.chain import RELEASE as ENTRY_KIND
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import verify_chain
from platform_assets.model_spec import ReleaseSpec
from platform_assets.release.memory import PilotMemory, TickResult
from platform_assets.release.pilot import Pilot
from platform_assets.resources.gateway import GatewayResource
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.triton_api import TritonRefused
from platform_assets.serving.promotion import GATES, LOAD_ID
from serving_gateway.contract import (
    ACTIVE,
    DEFAULT_MODEL,
    Mode,
    Release,
    ReleaseDecision,
    ReleaseReport,
    ReleaseRequest,
    ReleaseResponse,
    ReleaseState,
    ReloadRequest,
    Strategy,
)
from serving_gateway.inference.traffic import bucket, threshold
from tests.faults import candidates
from tests.support.gateway_harness import RunningGateway, run_gateway, serve_versions
from tests.support.load import Answer
from tests.support.models import IRIS
from tests.support.onnx_models import write_entry, write_version
from tests.support.servers import (
    RunningBalancer,
    RunningRedis,
    RunningTriton,
    run_haproxy,
    run_redis,
    run_triton,
    wait_until,
)

TOKEN: Final = "control-token-of-the-releases"
PER_SECOND: Final = 100
"""Requests of all clients together."""
CONNECTIONS: Final = 24
_PAUSE_SECONDS: Final = 0.1
"""Between two ticks of the pilot."""


class GatewayWithoutRegistry(GatewayResource):
    """The gateways as the pipeline asks them, but for what only a registry records."""

    def begin_release(self, model_name: str, request: ReleaseRequest) -> ReleaseResponse:
        """Begin a release without naming the contract of its features."""
        return super().begin_release(model_name, replace(request, feature_contract=None))


@dataclass(slots=True)
class World:
    """The servers, with a version in production, and one model's releases.

    `steps` are the model file's; `late` is by how much the pilot's clock is ahead.
    """

    home: Path
    triton: RunningTriton
    redis: RunningRedis
    gateways: Sequence[RunningGateway]
    balancer: RunningBalancer
    instance: dg.DagsterInstance
    steps: ReleaseSpec = field(default_factory=ReleaseSpec)
    memory: PilotMemory = field(default_factory=PilotMemory)
    late: timedelta = timedelta()
    production: int = 1
    rival: int = 1
    """The version that may be released: the newest one, or that which was in production."""
    releases: dict[int, Release] = field(default_factory=dict)
    """What the routing record had of the release, by generation."""
    _newest: int = 1

    @property
    def gateway(self) -> GatewayResource:
        """Both replicas, as the pipeline sees them."""
        urls = ",".join(one.url for one in self.gateways)
        return GatewayWithoutRegistry(urls=urls, control_token=TOKEN)

    @property
    def ledger(self) -> LedgerFolder:
        """Where the acts of releases are entered."""
        return LedgerFolder(root=str(self.home / "ledger"))

    def package(self, model: bytes) -> int:
        """Have a model as the next version in Triton's repository; its number."""
        self.rival = self._newest = self._newest + 1
        write_version(self.triton.repository, DEFAULT_MODEL, self.rival, model)
        return self.rival

    def load(self, version: int) -> bool:
        """Load a version next to production, and record that with all gates passed.

        Whether Triton has it READY; if not, that is recorded.
        """
        try:
            serve_versions(self.triton, self.production, version)
        except TritonRefused:
            self.record_load(version, state="not READY")
            return False
        self.record_load(version)
        return True

    def record_load(self, version: int, state: str = "READY") -> None:
        """Record what `triton_serving_state` and its checks do."""
        load_id, key = uuid4().hex, dg.AssetKey([DEFAULT_MODEL, "triton_serving_state"])
        known: dict[str, str | int] = {"version": version, LOAD_ID: load_id}
        metadata: dict[str, str | int] = {**known, "state": state, "run_id": f"run-{version}"}
        events: list[Any] = [dg.AssetMaterialization(key, metadata=metadata)]
        events += [dg.AssetCheckEvaluation(key, gate, True, known) for gate in GATES]
        for event in events:
            self.instance.report_runless_asset_event(event)

    def pilot(self, memory: PilotMemory) -> Pilot:
        """The pilot, as each tick of the sensor makes it."""
        return Pilot(
            spec=dataclasses.replace(IRIS, release=self.steps),
            steps=self.steps,
            gateway=self.gateway,
            mlflow=MlflowResource(tracking_uri="http://127.0.0.1:9"),
            ledger=self.ledger,
            losses=lambda *_: None,
            instance=self.instance,
            now=datetime.now(UTC) + self.late,
            memory=memory,
        )

    def tick(self, after: float = 0.0) -> TickResult:
        """Let the pilot look, with its clock that many seconds further; switch if it says so."""
        self.late += timedelta(seconds=after)
        result = self.pilot(self.memory).tick(is_busy=False)
        for event in result.events:
            self.instance.report_runless_asset_event(event)
        self.report()
        if result.requests:
            self.switch()
        return result

    def die_in_tick(self) -> None:
        """Let a pilot carry out its decision, and lose what it was to say and to remember."""
        self.pilot(replace(self.memory)).tick(is_busy=False)
        self.report()

    def switch(self) -> None:
        """Reload production onto the released version, as `gateway_reload` does."""
        release = self.release
        request = ReloadRequest(release.version, release.run_id, mode=Mode.SSOT)
        done = self.gateway.reload(DEFAULT_MODEL, "A", request)
        assert done.version == release.version
        self.report()

    def report(self) -> ReleaseReport:
        """What the gateways say of the release; kept by its generation."""
        found = self.gateway.release(DEFAULT_MODEL)
        if found.release is not None:
            self.releases[found.generation] = found.release
        return found

    @property
    def release(self) -> Release:
        """The present release, or the last one."""
        found = self.report().release
        assert found is not None
        return found

    def run(self, seconds: float, until: ReleaseState | None = None) -> Release:
        """Run ticks until the newest load's release has ended, or is in a state; the release."""
        deadline, before = time.monotonic() + seconds, self.report().release
        known = None if before is None or before.state in ACTIVE else before.id
        while True:
            result, release = self.tick(), self.report().release
            is_over = release is not None and (
                release.state is until if until else release.state not in ACTIVE
            )
            if release is not None and release.id != known and is_over:
                return release
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"not within {seconds} s: the end of the release: {result.summary}"
                )
            time.sleep(_PAUSE_SECONDS)

    def settle(self) -> None:
        """Follow what the release ended with, and let go of the pin that a rollback has set."""
        report = self.report()
        release = report.release
        assert release is not None
        if release.state in ACTIVE:
            self.gateway.stop_release(DEFAULT_MODEL, ReleaseDecision("the trial is over"))
        self.tick()
        if (routed := self.routed()["A"]["version"]) != self.production:
            self.production, self.rival = routed, self.production
        answer = self.gateways[0].reload(version=self.production, mode="ssot", unpin=True)
        assert answer.status_code == 200, answer.text
        self.wait_until_followed()
        self.steps, self.late = ReleaseSpec(), timedelta()

    def routed(self) -> Any:
        """What the variants route to, by the record."""
        return self.gateways[0].models()["effective"]

    def wait_until_followed(self, seconds: float = 60) -> None:
        """Wait until both replicas route by the same record and can answer."""

        def follow() -> bool:
            seen = [one.client.get("/health").json() for one in self.gateways]
            return seen[0]["generation"] == seen[1]["generation"] and all(
                one["ready"] for one in seen
            )

        wait_until(follow, seconds, "both replicas follow")

    def acts(self, release_id: str) -> list[str]:
        """The places of a release in the ledger, oldest first; fails if its chain is broken."""
        journal = self.ledger.journal(DEFAULT_MODEL)
        assert journal is not None
        lines, rest = journal.lines()
        assert verify_chain(lines, DEFAULT_MODEL, DeploymentKey(), rest=rest).problems == []
        entries = [one.content for one in journal.entries() if one.kind == ENTRY_KIND]
        return [str(one["state"]) for one in entries if one["release_id"] == release_id]

    def exposed_wrongly(self, answers: Sequence[Answer]) -> list[Answer]:
        """Answers by B for clients outside of its share, or by no generation that had one."""
        return [one for one in answers if one.variant == "B" and not self._may_be_exposed(one)]

    def _may_be_exposed(self, answer: Answer) -> bool:
        release = self.releases.get(answer.generation or 0)
        if release is None or release.state not in ACTIVE:
            return False
        if release.state is ReleaseState.WATCHING:  # stopped here, and not rolled back yet
            return answer.version == release.previous_version
        step = release.plan.steps[release.step]
        return (
            step.strategy is Strategy.SPLIT
            and answer.version == release.version
            and bucket(answer.client_id or "", step.salt) < threshold(step.percent)
        )


@contextlib.contextmanager
def run_world(home: Path) -> Iterator[World]:
    """Run all servers, with version 1 in production, not pinned."""
    repository = home / "repository"
    write_entry(repository, DEFAULT_MODEL, {1: candidates.production()})
    with contextlib.ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        redis = stack.enter_context(run_redis(home / "redis", "--appendonly", "yes"))
        triton = stack.enter_context(run_triton(repository, home / "triton"))
        env = {
            "GATEWAY_REDIS_URL": redis.url,
            "GATEWAY_CONTROL_TOKEN": TOKEN,
            # Generous, so that a busy machine fails no request; a lost one still does.
            "GATEWAY_REQUEST_SECONDS": "20",
            # What else the machine does takes no version away.
            "GATEWAY_PROBE_SECONDS": "10",
            "GATEWAY_STALENESS_SECONDS": "20",
        }
        gateways = [
            stack.enter_context(run_gateway(home / name, triton.http_url, env=env, name=name))
            for name in ("one", "two")
        ]
        for gateway in gateways:
            gateway.client.headers["authorization"] = f"Bearer {TOKEN}"
        answer = gateways[0].reload(version=1, run_id="run-1", mode="ssot")
        assert answer.status_code == 200, answer.text
        balancer = stack.enter_context(run_haproxy(home / "haproxy", [g.url for g in gateways]))
        world = World(home, triton, redis, gateways, balancer, instance)
        world.wait_until_followed()
        yield world
