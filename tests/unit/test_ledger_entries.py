"""The chain beside Dagster's records: one entry for each switch, and none is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from platform_assets.ledger.chain import BEGINNING, SWITCH
from platform_assets.ledger.journal import Journal
from platform_assets.ledger.keys import new_private_key
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import verify_chain
from platform_assets.model_spec import ModelSpec, ReleaseSpec
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from platform_assets.serving.ledger import PROMOTION, switch_metadata, switch_reason
from platform_assets.serving.ledger_entries import (
    ENTRY,
    HASH,
    LedgerWriter,
    head_tags,
    plain_content,
)
from platform_assets.serving.switch_evidence import switch_content
from platform_assets.serving.switching import ConfirmedSwitch
from serving_gateway.contract import (
    SWITCH_REASON_CHARACTERS,
    Mode,
    ReloadResponse,
)
from tests.support.models import IRIS

KEY_PEM = new_private_key()
NOWHERE = MlflowResource(tracking_uri="http://127.0.0.1:9")


@pytest.fixture
def folder(tmp_path: Path) -> LedgerFolder:
    return LedgerFolder(root=str(tmp_path / "ledger"), key=KEY_PEM)


def journal(folder: LedgerFolder, spec: ModelSpec = IRIS) -> Journal:
    found = folder.journal(spec.model_name)
    assert found is not None
    return found


def confirmed(version: int, generation: int, reason: str, *, changed: bool = True) -> Any:
    answer = ReloadResponse(
        "success", "A", version, "run", "registry", Mode.SSOT, generation, None, changed
    )
    return ConfirmedSwitch(answer, ("replica",), PROMOTION, reason)


def enter(folder: LedgerFolder, instance: dg.DagsterInstance, switched: Any) -> dict[str, Any]:
    content = switch_content(
        IRIS, switched, ModelRepository(root="/nowhere"), by="ada", dagster_run="run"
    )
    return LedgerWriter(IRIS, folder, instance).enter_switch(content)


def materialize(instance: dg.DagsterInstance, switched: Any, **entered: Any) -> None:
    metadata = switch_metadata(IRIS, switched, NOWHERE, more=entered)
    key = dg.AssetKey(IRIS.key("gateway_reload"))
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=metadata))


def kinds(folder: LedgerFolder) -> list[tuple[str, int | None]]:
    entries = journal(folder).entries()
    return [(entry.kind, entry.content.get("generation")) for entry in entries]


def test_a_switch_is_entered_with_its_digests_and_named_in_the_metadata(
    folder: LedgerFolder, instance: dg.DagsterInstance
) -> None:
    entered = enter(folder, instance, confirmed(1, 1, "nightly"))
    [entry] = journal(folder).entries()
    assert (entered[ENTRY], entered[HASH]) == (1, entry.hash)
    assert entered["ledger"] == f"entry 1, signed with key {entry.key}"
    assert head_tags(entered) == {"serving.ledger": f"1 {entry.hash}"}
    assert (entry.content["version"], entry.content["by"]) == (1, "ada")
    assert "is not a whole version" in entry.content["package"]["problem"]


def test_a_run_that_is_tried_again_and_the_backfill_enter_one_switch(
    folder: LedgerFolder, instance: dg.DagsterInstance
) -> None:
    enter(folder, instance, confirmed(1, 1, "first"))
    again = enter(folder, instance, confirmed(1, 1, "second", changed=False))
    late = enter(folder, instance, confirmed(1, 1, "first"))
    assert again[ENTRY] == late[ENTRY] == 1
    assert kinds(folder) == [(SWITCH, 1)]


@pytest.mark.parametrize("length", [300, 700, 5_000])
def test_switch_with_a_long_reason_is_entered_once(
    folder: LedgerFolder, instance: dg.DagsterInstance, length: int
) -> None:
    """The gateway keeps the beginning of it, by which the backfill enters the switch."""
    reason = f"promotion by Dagster run {'1' * 36}: {'because ' * (length // 8)}"
    for reported in (reason, reason, reason[:SWITCH_REASON_CHARACTERS]):
        enter(folder, instance, confirmed(1, 1, reported))
    assert kinds(folder) == [(SWITCH, 1)]


def test_generations_that_began_anew_hide_no_switch(
    folder: LedgerFolder, instance: dg.DagsterInstance
) -> None:
    one, other, third = (switch_reason(PROMOTION, number * 36) for number in "123")
    enter(folder, instance, confirmed(1, 1, one))
    enter(folder, instance, confirmed(1, 1, other))
    materialize(instance, confirmed(1, 1, third))
    assert len(LedgerWriter(IRIS, folder, instance).enter_missing()) == 1
    assert kinds(folder) == [(SWITCH, 1)] * 3


def test_a_switch_that_could_not_be_entered_is_entered_later(
    folder: LedgerFolder, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "full").touch()
    full = LedgerFolder(root=str(tmp_path / "full"), key=KEY_PEM)
    first, second = (
        confirmed(number, number, switch_reason(PROMOTION, str(number) * 36)) for number in (1, 2)
    )
    materialize(instance, first, **enter(folder, instance, first))
    lost = enter(full, instance, second)
    assert lost["ledger"].startswith("not entered yet: the ledger ")
    assert head_tags(lost) == {}
    materialize(instance, second, **lost)
    assert (
        "generation 2: entry 2, signed" in LedgerWriter(IRIS, folder, instance).enter_missing()[0]
    )
    assert LedgerWriter(IRIS, folder, instance).enter_missing() == []
    assert kinds(folder) == [(SWITCH, 1), (SWITCH, 2)]
    assert journal(folder).entries()[1].content["chain"] == "entered later"


def test_an_old_ledger_begins_its_chain_with_an_entry_that_says_so(
    folder: LedgerFolder, instance: dg.DagsterInstance
) -> None:
    materialize(instance, confirmed(1, 1, "a"))
    materialize(instance, confirmed(2, 2, "b"))
    assert LedgerWriter(IRIS, folder, instance).enter_missing() != []
    assert LedgerWriter(IRIS, folder, instance).enter_missing() == []
    enter(folder, instance, confirmed(3, 3, "c"))
    [first, later] = journal(folder).entries()
    assert (first.kind, later.kind) == (BEGINNING, SWITCH)
    assert [one["version"] for one in first.content["switches"]] == [1, 2]
    assert "which nothing protected until now" in first.content["note"]
    lines, rest = journal(folder).lines()
    assert verify_chain(lines, IRIS.model_name, folder.deployment_key(), rest=rest).problems == []


def test_an_act_of_a_release_is_entered_once(
    folder: LedgerFolder, instance: dg.DagsterInstance
) -> None:
    made = dg.AssetMaterialization(
        dg.AssetKey([IRIS.model_name, "release"]),
        description="go",
        metadata={
            "version": 2,
            "shift": float("nan"),
            "plot": dg.MetadataValue.md("![](data:image/png;base64,AAAA)"),
        },
    )
    writer = LedgerWriter(IRIS, folder, instance)
    shown, again = (writer.enter_act(made, "r-1 step 0") for _ in range(2))
    assert shown.metadata[ENTRY] == again.metadata[ENTRY]
    assert "plot" in shown.metadata
    [entry] = journal(folder).entries()
    assert entry.content == {
        "description": "go",
        "identity": "r-1 step 0",
        "shift": "nan",
        "version": 2,
    }


def test_an_act_of_a_release_that_could_not_be_entered_is_entered_later(
    folder: LedgerFolder, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "full").touch()
    full, spec = LedgerFolder(root=str(tmp_path / "full")), replace(IRIS, release=ReleaseSpec())
    made = dg.AssetMaterialization(
        dg.AssetKey([IRIS.model_name, "release"]), metadata={"version": 2, "verdict": "go"}
    )
    for where in (full, folder):
        entered = LedgerWriter(spec, where, instance).enter_act(made, "r-1 step 0")
        instance.report_runless_asset_event(entered)
    assert "release: entry 2, signed" in LedgerWriter(spec, folder, instance).enter_missing()[0]
    assert LedgerWriter(spec, folder, instance).enter_missing() == []
    assert [entry.content["verdict"] for entry in journal(folder).entries()] == ["go", "go"]


def test_without_a_folder_nothing_is_entered(instance: dg.DagsterInstance) -> None:
    assert enter(LedgerFolder(), instance, confirmed(1, 1, "a")) == {}
    assert LedgerWriter(IRIS, LedgerFolder(), instance).enter_missing() == []


def test_a_broken_key_stops_no_switch(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    broken = LedgerFolder(root=str(tmp_path), key="/nowhere/key.pem")
    entered = enter(broken, instance, confirmed(1, 1, "a"))
    assert "the ledger's key cannot be read" in entered["ledger"]
    assert list(tmp_path.iterdir()) == []


def test_the_newest_act_stays_whole_in_a_text_that_is_cut() -> None:
    acts = [f"- {at}, token:ada: go: {'long ' * 200}" for at in range(10)]
    cut = plain_content("\n".join(acts))
    assert len(cut) < 5_000
    assert cut.endswith(acts[-1])
