"""The schedule of live quality."""

from __future__ import annotations

from datetime import UTC, timedelta

import dagster as dg

from platform_assets.model_spec import ModelSpec
from platform_assets.quality.assets import DAYS


def quality_schedule(
    spec: ModelSpec, job: dg.JobDefinition | dg.UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """Build the schedule: each morning, yesterday and the day that has just matured."""

    @dg.schedule(
        name=f"{spec.model_name}_quality_schedule",
        job=job,
        cron_schedule="30 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=(
            f"{spec.model_name}: the quality of yesterday's predictions, and of those of the day "
            "whose outcomes have become final. Stopped by default; switch it on in Dagster."
        ),
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        now = context.scheduled_execution_time.astimezone(UTC)
        ends = (now, now - spec.outcome_rule.delay)
        days = dict.fromkeys((end - timedelta(days=1)).date().isoformat() for end in ends)
        known = DAYS.get_partition_keys(now)
        return [
            dg.RunRequest(run_key=f"{now.date()} {day}", partition_key=day)
            for day in days
            if day in known
        ]

    return scheduled
