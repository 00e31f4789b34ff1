"""The deployment ledger, written and read back."""

from __future__ import annotations

import dagster as dg

from platform_assets.resources.mlflow import MlflowResource
from platform_assets.serving.ledger import (
    PROMOTION,
    ROLLBACK,
    ledger_json,
    ledger_markdown,
    parse_reason,
    read_ledger,
    switch_metadata,
    switch_reason,
)
from platform_assets.serving.switching import ConfirmedSwitch
from serving_gateway.contract import Mode, ReloadResponse
from tests.support.models import IRIS


def switch(
    instance: dg.DagsterInstance,
    version: int,
    generation: int,
    *,
    previous: int | None = None,
    changed: bool = True,
    action: str = PROMOTION,
    reason: str = "",
) -> None:
    answer = ReloadResponse(
        "success",
        "A",
        version,
        f"run-{version}",
        "registry",
        Mode.SSOT,
        generation,
        previous,
        changed,
    )
    metadata = switch_metadata(
        IRIS,
        ConfirmedSwitch(answer, ("replica",), action, reason),
        MlflowResource(tracking_uri="http://127.0.0.1:9"),
    )
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))


def test_switches_are_listed_newest_first(instance: dg.DagsterInstance) -> None:
    switch(instance, 1, 1)
    switch(instance, 2, 2, previous=1, reason="nightly")
    switch(instance, 1, 3, previous=2, action=ROLLBACK, reason="it was wrong")
    entries = read_ledger(instance, IRIS)
    assert [(e.version, e.previous_version, e.action) for e in entries] == [
        (1, 2, ROLLBACK),
        (2, 1, PROMOTION),
        (1, None, PROMOTION),
    ]


def test_a_run_that_was_tried_again_is_one_switch(instance: dg.DagsterInstance) -> None:
    switch(instance, 2, 2, previous=1, reason="first")
    switch(instance, 2, 2, previous=2, changed=False, reason="again")
    assert [entry.reason for entry in read_ledger(instance, IRIS)] == ["first"]


def test_a_switch_whose_first_run_died_is_in_the_ledger_by_its_second(
    instance: dg.DagsterInstance,
) -> None:
    switch(instance, 1, 1)
    switch(instance, 2, 2, previous=2, changed=False)
    entry, _ = read_ledger(instance, IRIS)
    assert (entry.version, entry.previous_version, entry.generation) == (2, 1, 2)


def test_a_reason_tells_which_run_made_the_switch() -> None:
    run_id = dg.DagsterRun(job_name="any").run_id
    reason = switch_reason(ROLLBACK, run_id, wanted_by="ada", why="it was wrong")
    assert reason == f"rollback by Dagster run {run_id} for ada: it was wrong"
    assert parse_reason(reason) == (ROLLBACK, run_id)
    assert parse_reason(switch_reason(PROMOTION, run_id)) == (PROMOTION, run_id)
    assert parse_reason("rollback by ada: it was wrong") is None


def test_before_the_first_switch_it_is_empty(instance: dg.DagsterInstance) -> None:
    assert read_ledger(instance, IRIS) == []
    assert ledger_json([]) == "[]"


def test_reasons_stay_in_their_cell(instance: dg.DagsterInstance) -> None:
    switch(instance, 1, 1, reason="a | b\nc ![d](http://e) <f>")
    table = ledger_markdown(read_ledger(instance, IRIS)).splitlines()
    assert len(table) == 3
    assert table[2].endswith(r"| a \| b c !\[d\](http://e) \<f> |")


def switch_manually(instance: dg.DagsterInstance, version: int, generation: int, at: str) -> None:
    made = dg.AssetMaterialization(
        dg.AssetKey(IRIS.key("gateway_reload")),
        metadata={"version": version, "generation": generation, "at": at, "missing": "some"},
    )
    instance.report_runless_asset_event(made)


def test_a_switch_that_was_entered_late_stands_where_it_belongs(
    instance: dg.DagsterInstance,
) -> None:
    switch(instance, version=1, generation=1)
    switch(instance, version=3, generation=4)
    switch_manually(instance, 2, 2, "2020-01-02T03:04:05.678Z")
    switch_manually(instance, 1, 3, "2020-01-02T03:04:06.678Z")
    late, later = read_ledger(instance, IRIS)[1:3]
    assert [entry.generation for entry in read_ledger(instance, IRIS)] == [4, 3, 2, 1]
    assert (late.version, later.version) == (1, 2)
    assert later.at == "2020-01-02T03:04:05+00:00", "when it was, not when it was entered"
    assert ledger_markdown([later]).endswith("| (some) |")


def test_generations_that_began_anew_hide_no_switch(instance: dg.DagsterInstance) -> None:
    one, other = (switch_reason(PROMOTION, number * 36) for number in "12")
    switch(instance, version=1, generation=1, reason=one)
    switch(instance, version=2, generation=2, previous=1)
    switch(instance, version=3, generation=1)
    switch(instance, version=1, generation=1, reason=other)
    switch(instance, version=1, generation=1, reason=other)
    assert [entry.version for entry in read_ledger(instance, IRIS)] == [1, 3, 2, 1]
