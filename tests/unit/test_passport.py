"""Passports: what they say with and without servers, and what their verification detects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import msgspec
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationPlanned,
)
from dagster._core.events import DagsterEvent, DagsterEventType
from rich.console import Console

from platform_assets.ledger.chain import LedgerEntry, next_entry, parse_line
from platform_assets.ledger.journal import Journal
from platform_assets.ledger.keys import DeploymentKey, new_private_key, read_key
from platform_assets.ledger.resource import LedgerFolder
from platform_assets.ledger.verification import Findings
from platform_assets.local_stack.__main__ import _passport
from platform_assets.local_stack.passports import VARIABLES
from platform_assets.local_stack.settings import StackError, stack_settings
from platform_assets.passport.__main__ import main
from platform_assets.passport.document import decode, encode, seal
from platform_assets.passport.from_ledger import collect_from_ledger, periods
from platform_assets.passport.making import Sources, make_passport
from platform_assets.passport.page import passport_page
from platform_assets.passport.verification import verify_passport, verify_version
from platform_assets.resources.mlflow import MlflowResource, MlflowUnavailable
from platform_assets.resources.mlflow_versions import VersionEntry
from platform_assets.resources.model_repository import ModelRepository, Provenance
from platform_assets.serving.ledger import PROMOTION, ROLLBACK, switch_metadata
from platform_assets.serving.ledger_entries import LedgerWriter, head_tags
from platform_assets.serving.switch_evidence import switch_content
from platform_assets.serving.switching import ConfirmedSwitch
from serving_gateway.contract import ONNX_DIGEST_TAG, Mode, ReloadResponse
from tests.support.models import IRIS
from tests.support.servers import free_port

NAME = IRIS.model_name
KEY_PEM = new_private_key()
OTHER_PEM = new_private_key()


class Registry(MlflowResource):
    """An MLflow whose versions the test writes; `down`: one that does not answer."""

    tracking_uri: str = "http://127.0.0.1:9"
    tags: dict[int, dict[str, str]] = {}  # noqa: RUF012 # a field of pydantic
    down: bool = False

    def versions(self, model_name: str) -> list[VersionEntry]:
        if self.down:
            raise MlflowUnavailable("MLflow does not answer")
        return [VersionEntry(one, f"run-{one}", tags) for one, tags in self.tags.items()]

    def run_tags(self, run_id: str) -> dict[str, str]:
        return {"mlflow.source.git.commit": "c0ffee", "mlflow.user": "ada"}


class World:
    """A repository, a ledger, a registry and Dagster's records, after switches 1, 2, 1."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, key: str) -> None:
        self.home, self.instance = home, instance
        self.folder = LedgerFolder(root=str(home / "ledger"), key=key)
        self.repository = ModelRepository(root=str(home / "model-repository"))
        self.tags: dict[int, dict[str, str]] = {}
        for version in (1, 2):
            graph = f"graph {version}".encode()
            digest = hashlib.sha256(graph).hexdigest()
            packaged = Provenance(NAME, version, f"run-{version}", digest, "f" * 8, "dagster-run")
            self.repository.package(graph, packaged)
            self.tags[version] = {ONNX_DIGEST_TAG: digest}
        self.switch(1, 1, PROMOTION, "nightly")
        self.switch(2, 2, PROMOTION, "better")
        decision = dg.AssetMaterialization(
            dg.AssetKey([NAME, "release"]),
            metadata={
                "version": 2,
                "verdict": "go",
                "reason": "all guards hold",
                "acts": dg.MetadataValue.md("- 2026-01-02, token:ada: approval: looks good"),
            },
        )
        made = LedgerWriter(IRIS, self.folder, instance).enter_act(decision, "r-1 step 0")
        instance.report_runless_asset_event(made)
        self.switch(1, 3, ROLLBACK, "it was wrong")

    def switch(self, version: int, generation: int, action: str, reason: str) -> None:
        answer = ReloadResponse(
            "success", "A", version, f"run-{version}", "registry", Mode.SSOT, generation, None, True
        )
        switched = ConfirmedSwitch(answer, ("replica",), action, reason)
        gates = {
            "no_regression": dg.AssetCheckEvaluation(
                dg.AssetKey(IRIS.key("triton_serving_state")),
                "no_regression",
                True,
                {"gain": dg.MetadataValue.float(0.25)},
                description="better than production",
            )
        }
        content = switch_content(
            IRIS, switched, self.repository, by="", dagster_run="r", gates=gates
        )
        entered = LedgerWriter(IRIS, self.folder, self.instance).enter_switch(content)
        self.tags[version] |= head_tags(entered)
        made = dg.AssetMaterialization(
            dg.AssetKey(IRIS.key("gateway_reload")),
            metadata=switch_metadata(IRIS, switched, self.registry(), more=entered),
        )
        self.instance.report_runless_asset_event(made)

    def registry(self, *, down: bool = False) -> Registry:
        return Registry(tags=self.tags, down=down)

    @property
    def journal(self) -> Journal:
        found = self.folder.journal(NAME)
        assert found is not None
        return found

    @property
    def sources(self) -> Sources:
        return Sources(
            self.folder.journal,
            self.folder.deployment_key(),
            self.instance,
            self.registry(),
            self.repository,
        )

    def verify(self, version: int = 2, key: DeploymentKey | None = None) -> Findings:
        sources = self.sources if key is None else replace(self.sources, key=key)
        return verify_version(sources, NAME, version)

    def rewrite(self, lines: list[bytes]) -> None:
        self.journal.path.write_bytes(b"".join(line + b"\n" for line in lines))

    def model(self, version: int) -> Path:
        return self.repository.path(NAME, version) / "model.onnx"


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    return World(tmp_path, instance, KEY_PEM)


def test_passport_names_each_fact_with_its_source(world: World) -> None:
    passport = make_passport(world.sources, NAME, 2)
    digests = passport.values("Digests", "model.onnx")
    assert set(digests) == {
        "ledger, entry 2",
        "MLflow, version",
        "model repository, now",
        "model repository, provenance.json",
    }
    assert len(set(digests.values())) == 1
    assert passport.values("Code", "git commit") == {"MLflow, run": "c0ffee"}
    [gate] = passport.facts["Gates"]
    assert (gate.name, gate.value["measured"], gate.source) == (
        "no_regression",
        {"gain": 0.25},
        "ledger, entry 2",
    )
    [act] = passport.release
    assert (act.content["verdict"], act.source) == ("go", "ledger, entry 3")
    page = passport_page(seal(passport, world.sources.key))
    assert "token:ada: approval: looks good" in page
    # Where the ledger has not got it, Dagster's word counts.
    unchained = replace(world.sources, journal=lambda _: None)
    [act] = make_passport(unchained, NAME, 2).release
    assert (act.content["reason"], act.source) == ("all guards hold", "Dagster, release")


def test_passport_lists_the_times_in_production(world: World) -> None:
    [first, again] = make_passport(world.sources, NAME, 1).periods
    [between] = make_passport(world.sources, NAME, 2).periods
    assert (first.until, between.until, again.until) == (between.since, again.since, None)
    assert (first.action, again.action, again.why) == (PROMOTION, ROLLBACK, "it was wrong")
    page = passport_page(seal(make_passport(world.sources, NAME, 1), world.sources.key))
    assert ">no later switch<" in page


def _chained(*switches: tuple[str, dict[str, Any]]) -> list[LedgerEntry]:
    entries: list[LedgerEntry] = []
    for at, content in switches:
        last = entries[-1] if entries else None
        entries.append(next_entry(NAME, last, "switch", content, DeploymentKey(), at))
    return entries


def test_switch_that_was_entered_late_ends_the_one_before_it() -> None:
    """A run reports its switch after a while; of one at the gateway, its own time is known."""
    entries = _chained(
        ("2026-01-01T11:00:00.000+00:00", {"version": 1, "generation": 1}),
        ("2026-01-01T12:00:05.000+00:00", {"version": 2, "generation": 2}),
        (
            "2026-01-01T12:00:40.000+00:00",
            {"version": 1, "generation": 3, "at": "2026-01-01T12:00:04.000Z"},
        ),
    )
    assert [one.until is None for one in periods(entries, 1)] == [False, True]
    assert [one.until is None for one in periods(entries, 2)] == [False]


def test_digests_are_those_of_the_first_switch_that_has_some() -> None:
    damaged, whole = {"problem": "not whole"}, {"onnx_sha256": "a" * 64}
    entries = _chained(
        ("2026-01-01T11:00:00.000+00:00", {"version": 1, "generation": 1, "package": damaged}),
        ("2026-01-01T12:00:00.000+00:00", {"version": 1, "generation": 2, "package": whole}),
    )
    [fact] = collect_from_ledger(entries, 1).facts["Digests"]
    assert (fact.value, fact.source) == ("a" * 64, "ledger, entry 2")


def test_passport_can_be_made_while_a_run_has_not_judged_its_gates_yet(
    world: World, instance: dg.DagsterInstance
) -> None:
    gate = dg.AssetKey(IRIS.key("triton_serving_state"))
    passed = dg.AssetCheckEvaluation(gate, "replay", True, {"version": dg.MetadataValue.int(2)})
    instance.report_runless_asset_event(passed)
    planned = DagsterEvent(
        DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        "a_chain",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=gate, check_name="replay"),
    )
    instance.report_dagster_event(planned, run_id=str(uuid4()))
    assert "Dagster" in make_passport(world.sources, NAME, 2).values("Gates", "replay")


def test_without_mlflow_the_ledger_tells_what_it_knows(world: World) -> None:
    alone = Sources(world.folder.journal, world.folder.deployment_key())
    passport = make_passport(alone, NAME, 2)
    assert list(passport.values("Digests", "model.onnx")) == ["ledger, entry 2"]
    assert passport.periods
    assert passport.missing == [
        "Dagster was not asked (DAGSTER_HOME).",
        "MLflow was not asked (MLFLOW_TRACKING_URI).",
        "The repository was not read (MODEL_REPOSITORY).",
    ]
    down = replace(world.sources, mlflow=world.registry(down=True))
    assert make_passport(down, NAME, 2).missing[-1].startswith("MLflow did not return all")
    assert verify_version(down, NAME, 2).problems == []


def test_page_escapes_what_others_wrote_and_says_who_signed(world: World) -> None:
    world.switch(2, 4, PROMOTION, "<script>alert(1)</script>")
    passport = make_passport(world.sources, NAME, 2)
    page = passport_page(seal(passport, world.sources.key))
    assert "<script>" not in page
    assert f"Signed with key {world.sources.key.signing_id}" in page
    assert "BEGIN PUBLIC KEY" in page
    assert "PRIVATE" not in page
    assert "Not signed" in passport_page(seal(passport, DeploymentKey()))


def test_ledger_that_cannot_be_read_is_a_problem(world: World) -> None:
    file = world.home / "ledger" / f"{NAME}.jsonl"
    file.unlink()
    file.mkdir()
    [problem] = verify_version(world.sources, NAME, 2).problems
    assert "cannot be read" in problem


def test_version_of_which_nothing_is_known_does_not_verify(world: World) -> None:
    assert verify_version(world.sources, NAME, 9).problems == [
        f"Nothing is known of version 9 of {NAME}."
    ]


def test_untouched_records_verify(world: World) -> None:
    assert world.verify().problems == []
    sealed = decode(encode(seal(make_passport(world.sources, NAME, 2), world.sources.key)))
    assert verify_passport(world.sources, sealed).problems == []


def _change_model(world: World) -> None:
    world.model(2).write_bytes(b"graph 3")


def _change_model_and_provenance(world: World) -> None:
    data = b"graph 3"
    path = world.model(2).with_name("provenance.json")
    record = {**json.loads(path.read_bytes()), "onnx_sha256": hashlib.sha256(data).hexdigest()}
    world.model(2).write_bytes(data)
    path.write_text(json.dumps(record))


def _provenance(world: World) -> Path:
    return world.model(2).with_name("provenance.json")


def _edit_provenance(world: World) -> None:
    record = {**json.loads(_provenance(world).read_bytes()), "onnx_sha256": "0" * 64}
    _provenance(world).write_text(json.dumps(record))


def _empty_provenance(world: World) -> None:
    _provenance(world).write_text("{}")


def _delete_provenance(world: World) -> None:
    _provenance(world).unlink()


def _edit_entry(world: World) -> None:
    lines = world.journal.lines()[0]
    world.rewrite([lines[0], lines[1].replace(b"better", b"bitter"), *lines[2:]])


def _spoil_entry(world: World, **content: Any) -> None:
    """Have an entry hold what no writer writes."""
    lines = world.journal.lines()[0]
    entry = json.loads(lines[1])
    spoiled = json.dumps({**entry, "content": {**entry["content"], **content}}).encode()
    world.rewrite([lines[0], spoiled, *lines[2:]])


def _nest_entry(world: World) -> None:
    lines = world.journal.lines()[0]
    world.rewrite([lines[0], b'{"content":' + b'{"a":' * 100_000, *lines[2:]])


def _remove_entry(world: World) -> None:
    lines = world.journal.lines()[0]
    world.rewrite([lines[0], *lines[2:]])


def _move_entry(world: World) -> None:
    lines = world.journal.lines()[0]
    world.rewrite([lines[0], lines[2], lines[1], lines[3]])


def _cut_off(world: World) -> None:
    world.rewrite(world.journal.lines()[0][:3])


def _cut_off_beside_a_dagster_that_was_pruned(world: World) -> None:
    _cut_off(world)
    world.instance.wipe_assets([dg.AssetKey(IRIS.key("gateway_reload"))])


def _remove_ledger(world: World) -> None:
    world.journal.path.unlink()


def _write_anew(world: World) -> None:
    """As the holder of another key can."""
    entries = world.journal.entries()
    world.journal.path.unlink()
    for entry in entries:
        world.journal.append(entry.kind, entry.content, read_key(OTHER_PEM))


SPOILED: dict[str, dict[str, Any]] = {
    "a text as version": {"version": "x"},
    "no package": {"package": [1]},
    "a broken split": {"package": {"split": "{"}},
    "no gates": {"gates": [1]},
    "a text as gate": {"gates": {"floor": "passed"}},
}
_PROVENANCE_DIFFERS = "By model repository, now the SHA-256 of provenance.json is"
TAMPERING: dict[str, tuple[Callable[[World], None], str]] = {
    "a byte of the model": (
        _change_model,
        "By model repository, now the SHA-256 of model.onnx is",
    ),
    "the model and its provenance": (_change_model_and_provenance, _PROVENANCE_DIFFERS),
    "the provenance": (_edit_provenance, _PROVENANCE_DIFFERS),
    "an emptied provenance": (_empty_provenance, _PROVENANCE_DIFFERS),
    "a deleted provenance": (_delete_provenance, _PROVENANCE_DIFFERS),
    "an edited entry": (_edit_entry, "Entry 2 was edited"),
    **{
        f"an entry with {name}": (partial(_spoil_entry, **content), "Entry 2 was edited")
        for name, content in SPOILED.items()
    },
    "an entry nested too deeply": (_nest_entry, "Line 2 was edited"),
    "a removed entry": (_remove_entry, "Entry 2 was removed or moved"),
    "a moved entry": (_move_entry, "Entry 2 was moved or repeated"),
    "a truncated tail": (_cut_off, "The ledger ends with entry 3, but Dagster's asset"),
    "a tail that MLflow alone knows": (
        _cut_off_beside_a_dagster_that_was_pruned,
        "The ledger ends with entry 3, but MLflow's tag of version 1 knows entry 4",
    ),
    "a removed ledger": (_remove_ledger, "The ledger ends with entry 0"),
    "another key": (_write_anew, "Entry 1 is signed with another key"),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_verification_detects(kind: str, world: World) -> None:
    tamper, expected = TAMPERING[kind]
    sealed = seal(make_passport(world.sources, NAME, 2), world.sources.key)
    tamper(world)
    for found in (world.verify(), verify_passport(world.sources, sealed)):
        assert any(one.startswith(expected) for one in found.problems), found.problems


def test_passport_detects_an_end_that_all_servers_forgot(world: World) -> None:
    sealed = seal(make_passport(world.sources, NAME, 2), world.sources.key)
    _cut_off_beside_a_dagster_that_was_pruned(world)
    world.tags = {}
    assert world.verify().problems == [], "nothing here knows of it"
    [problem] = verify_passport(world.sources, sealed).problems
    assert "but the passport knows entry 4: the end was cut off" in problem


def test_edited_passport_is_detected(world: World) -> None:
    document = json.loads(encode(seal(make_passport(world.sources, NAME, 2), world.sources.key)))
    document["passport"]["periods"][0]["by"] = "nobody"
    found = verify_passport(world.sources, decode(json.dumps(document).encode()))
    assert found.problems[0] == "The passport was edited: its content does not have its hash."
    document["passport"]["model_name"] = "../../elsewhere"
    found = verify_passport(world.sources, decode(json.dumps(document).encode()))
    assert found.problems == ["The passport was edited: it is of no model."]
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode(b'{"passport":{"facts":{"x":[{"value":' + b"[" * 100_000)


@pytest.mark.parametrize(
    ("place", "addition"),
    [
        ('"passport": {', '"approved_by": "the board",'),
        ('"passport": {', '"format": "another",'),
        ('"ledger": [\n   {', '"note": "waived",'),
        ("{", '"verified": true,'),
    ],
)
def test_what_was_added_to_a_passport_is_detected(place: str, addition: str, world: World) -> None:
    text = encode(seal(make_passport(world.sources, NAME, 2), world.sources.key)).decode()
    assert verify_passport(world.sources, decode(text.encode())).problems == []
    assert place in text
    with pytest.raises(
        msgspec.ValidationError, match=r"was added to it|stands twice in it|unknown field"
    ):
        decode(text.replace(place, place + addition, 1).encode())


def test_passport_of_another_key_is_detected(world: World) -> None:
    other = read_key(OTHER_PEM)
    forged = seal(make_passport(world.sources, NAME, 2), other)
    [problem] = verify_passport(world.sources, forged).problems
    assert f"signed with another key ({other.signing_id})" in problem
    claimed = msgspec.structs.replace(forged, key=world.sources.key.signing_id)
    assert verify_passport(world.sources, claimed).problems == [
        "The signature of the passport is not that of its key."
    ]
    unsigned = seal(make_passport(world.sources, NAME, 2), DeploymentKey())
    assert "is not signed although" in verify_passport(world.sources, unsigned).problems[0]


def test_deployment_without_a_key_says_what_that_means(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    world = World(tmp_path, instance, "")
    found = world.verify()
    assert found.problems == []
    assert any("chained but not signed" in note for note in found.notes)
    page = passport_page(seal(make_passport(world.sources, NAME, 2), world.sources.key))
    assert "The deployment has no key" in page


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_command_writes_page_and_document_and_verifies_them(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LEDGER_DIR", str(world.home / "ledger"))
    monkeypatch.setenv("LEDGER_KEY", KEY_PEM)
    monkeypatch.setenv("MODEL_REPOSITORY", world.repository.root)
    code, said = run(capsys, NAME, "2")
    assert code == 0, said
    folder = world.home / "ledger" / "passports" / NAME
    assert sorted(path.name for path in folder.iterdir()) == ["v2.html", "v2.json"]
    assert run(capsys, "--verify", str(folder / "v2.json"))[0] == 0
    assert run(capsys, "--verify", NAME, "2")[0] == 0

    other = world.home / "other.pem"
    other.write_text(OTHER_PEM)
    code, said = run(capsys, "--verify", "--key", str(other), str(folder / "v2.json"))
    assert code == 1
    assert "PROBLEM: The passport is signed with another key" in said
    _change_model(world)
    code, said = run(capsys, "--verify", NAME, "2")
    assert code == 1
    assert "PROBLEM: By model repository, now the SHA-256" in said


def test_make_passport_finds_everything_of_the_state_directory(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.home / "secrets").mkdir()
    (world.home / "secrets" / "ledger-key.pem").write_text(KEY_PEM)
    for name in (*VARIABLES, "LEDGER_KEY", "KEY", "VERIFY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MODEL", NAME)
    monkeypatch.setenv("VERSION", "2")
    settings = stack_settings({"STATE_DIR": str(world.home), "MLFLOW_PORT": str(free_port())})
    with pytest.raises(StackError, match="`make up` makes it"):
        _passport(settings, Console())
    (world.home / "dagster").mkdir()
    assert _passport(settings, Console()) == 0
    document = world.home / "ledger" / "passports" / NAME / "v2.json"
    sealed = decode(document.read_bytes())
    assert sealed.is_signed_by(read_key(KEY_PEM))
    assert "model repository, now" in sealed.passport.values("Digests", "model.onnx")
    monkeypatch.setenv("VERIFY", str(document))
    assert _passport(settings, Console()) == 0
    assert "Nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((NAME,), 2, "name a model and a version"),
        ((NAME, "two"), 2, "name a model and a version"),
        ((NAME, "3" * 5_000), 2, "name a model and a version"),
        ((NAME, "9"), 1, "Nothing is known of version 9"),
        (("--verify", "/nowhere.json"), 1, "/nowhere.json"),
        (("--verify", "/dev/null"), 1, "PROBLEM: /dev/null is not a passport"),
        (("--verify", "--key", "/nowhere.pem", NAME, "1"), 1, "key cannot be read"),
    ],
    ids=[
        "no version",
        "no number",
        "no such number",
        "unknown",
        "no file",
        "no passport",
        "no key",
    ],
)
def test_command_says_what_it_cannot_do(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "MODEL_REPOSITORY", "LEDGER_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path))
    done: Any = run(capsys, *arguments)
    assert done[0] == code
    assert message in done[1]


def test_chain_in_a_passport_is_the_ledger_s_lines(world: World) -> None:
    sealed = decode(encode(seal(make_passport(world.sources, NAME, 2), world.sources.key)))
    lines = world.journal.lines()[0]
    assert [entry.line for entry in sealed.passport.ledger] == lines
    assert [parse_line(line) for line in lines] == sealed.passport.ledger
