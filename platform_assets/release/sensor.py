"""The sensor that steps through the releases of all models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import dagster as dg
import msgspec
from msgspec.structs import replace

from platform_assets.intervals import sensor_seconds
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.model_spec import ModelSpec
from platform_assets.release.losses import losses_reader
from platform_assets.release.memory import PilotMemory
from platform_assets.release.pilot import Pilot
from platform_assets.release.record import Event
from platform_assets.resources.gateway import (
    GatewayClientError,
    GatewayResource,
    GatewayUnavailable,
)
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.samples import SamplesFolder
from platform_assets.resources.webhook import MessageRejected, WebhookError, WebhookResource
from platform_assets.serving.turns import CHANGE, LEASE, busy_models

_STALE_S: Final = 24 * 3600.0
_MOST_WAITING: Final = 20
"""Messages of a model, of which the newest wait for the webhook."""


def release_pilot_sensor(
    specs: Sequence[ModelSpec], jobs: Sequence[dg.UnresolvedAssetJobDefinition]
) -> dg.SensorDefinition:
    """Build the sensor; `jobs` are the promotion jobs of `specs`, which all have releases."""

    @dg.sensor(
        name="release_pilot",
        jobs=jobs,
        minimum_interval_seconds=sensor_seconds(10),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Releases each loaded version that passed its gates in the steps of its model file: "
            "sums what the gateways counted, decides go, stop or not yet, and launches the switch "
            "after the last go. Running from the start; while it is stopped, releases stay in "
            "their step, and gateways still stop one whose candidate fails beyond doubt."
        ),
    )
    def release_pilot(
        context: dg.SensorEvaluationContext,
        gateway: GatewayResource,
        mlflow: MlflowResource,
        samples: SamplesFolder,
        ledger: LedgerFolder,
        webhook: WebhookResource,
    ) -> dg.SensorResult:
        memories = msgspec.json.decode(context.cursor or "{}", type=dict[str, PilotMemory])
        notes: list[str] = []
        events: list[Event] = []
        requests: list[dg.RunRequest] = []
        busy = busy_models(context.instance, CHANGE, LEASE)

        losses = losses_reader(samples, context.log)
        for spec in specs:
            if spec.release is None:
                continue
            name = spec.model_name
            # A copy: a failing tick leaves the memory unchanged, so the next one repeats it.
            memory = replace(memories.get(name, PilotMemory()))
            pilot = Pilot(
                spec=spec,
                steps=spec.release,
                gateway=gateway,
                mlflow=mlflow,
                ledger=ledger,
                losses=losses,
                instance=context.instance,
                now=datetime.now(UTC),
                memory=memory,
            )
            try:
                result = pilot.tick(is_busy=name in busy)
            except (GatewayClientError, ValueError) as error:
                notes.append(f"{name}: nothing was changed: {error}")
                if isinstance(error, GatewayUnavailable):
                    break  # a timeout per model would outlast the tick
                continue
            since = time.time()
            waiting = [*memory.messages, *((text, since) for text in result.alerts)]
            memory.messages, problem = _send(waiting[-_MOST_WAITING:], webhook)
            if problem:
                context.log.warning(f"{name}: {problem}")
            memories[name] = memory
            events += result.events
            requests += result.requests
            notes.append(f"{name}: {result.summary}")
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else "; ".join(notes),
            cursor=msgspec.json.encode(memories).decode(),
            asset_events=events,
        )

    return release_pilot


def _send(
    messages: Sequence[tuple[str, float]], webhook: WebhookResource
) -> tuple[list[tuple[str, float]], str]:
    """Post the messages that wait; return those that still do, and the last problem.

    What the webhook did not answer to is tried again for a day.
    """
    problem = ""
    for place, (text, since) in enumerate(messages if webhook.address else ()):
        try:
            webhook.post(text)
        except MessageRejected as error:
            problem = str(error)
        except WebhookError as error:
            problem = str(error)
            if time.time() < since + _STALE_S:
                return [*messages[place:]], problem
    return [], problem
