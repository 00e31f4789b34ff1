"""A release by the real servers: from a loaded version to production, and back."""

from __future__ import annotations

from typing import Any

import dagster as dg

from platform_assets.model_spec import ReleaseSpec, StepMinimum
from platform_assets.release.promotion_runs import RELEASE_TAG
from platform_assets.resources.gateway import GatewayResource
from serving_gateway.contract import Guard, ReleaseState
from tests.support.full_platform import TO_ENTRY, Platform
from tests.support.servers import wait_until

STEPS = ReleaseSpec(
    steps=("mirror",),
    each=StepMinimum(requests=20, minutes=0.0),
    guardrails={Guard.FAILURES: 0.005, Guard.DISAGREEMENT: 0.05},
    unproven=(Guard.FAILURES, Guard.DISAGREEMENT),
)


class Ticks:
    """The sensor, as the daemon evaluates it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.cursor: str | None = None

    def tick(self) -> list[dg.RunRequest]:
        """Evaluate once, and store what it reports; return the runs that it asks for."""
        definitions = self.platform.definitions
        sensor = definitions.resolve_sensor_def("release_pilot")
        names = ("gateway", "mlflow", "samples", "ledger", "webhook")
        context = dg.build_sensor_context(
            instance=self.platform.instance,
            cursor=self.cursor,
            resources={name: self.platform.resources[name] for name in names},
        )
        data = sensor.evaluate_tick(context)
        self.cursor = data.cursor
        for event in data.asset_events:
            self.platform.instance.report_runless_asset_event(event)
        return list(data.run_requests or [])


def release_of(platform: Platform) -> Any:
    gateway = platform.resources["gateway"]
    assert isinstance(gateway, GatewayResource)
    return gateway.release(platform.spec.model_name)


def test_a_version_is_released_switched_to_and_rolled_back(platform: Platform) -> None:
    if not platform.settled():
        platform.promote()
    before, released = platform.production(), platform.of(release=STEPS)
    loaded = released.run(*TO_ENTRY, "triton_serving_state")
    assert loaded.success, loaded.failures
    version = loaded.values["triton_serving_state"].version
    # The switch refuses what the release has not cleared.
    refused = released.run("gateway_reload", checks=False)
    assert "has releases, and" in refused.failures["gateway_reload"]
    assert released.production() == before

    ticks = Ticks(released)
    assert ticks.tick() == []
    assert release_of(released).release.version == version
    for _ in range(30):
        assert released.answering_version() == before

    def is_cleared() -> bool:
        ticks.tick()
        return bool(release_of(released).release.state is ReleaseState.CLEARED)

    wait_until(is_cleared, 15, "the release reaches go")
    [request] = ticks.tick()
    assert request.tags[RELEASE_TAG] == f"release {release_of(released).release.id}"
    assert released.execute(str(request.job_name)) == {}
    assert released.answering_version() == version
    assert release_of(released).release.state is ReleaseState.WATCHING
    ticks.tick()

    config = {"config": {"name": "Ada", "reason": "a drill"}}
    node = f"{released.spec.model_name}__stop_release"
    job = f"{released.spec.model_name}_stop_release"
    assert released.execute(job, {"ops": {node: config}}) == {}
    assert released.answering_version() == before
    ticks.tick()
    key = dg.AssetKey(released.spec.key("release"))
    records = released.instance.fetch_materializations(key, limit=20).records
    made = [one.asset_materialization for one in reversed(records)]
    states = [one.metadata["state"].value for one in made if one is not None]
    assert states == [
        "step 1 of 1, all requests mirrored",
        "cleared",
        "watching",
        "rolled back",
    ]
