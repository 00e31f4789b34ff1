"""The chain of the ledger: what is appended to it, and every kind of tampering with it."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platform_assets.ledger.chain import (
    BEGINNING,
    SWITCH,
    LedgerEntry,
    body_hash,
    canonical,
    next_entry,
    parse_line,
)
from platform_assets.ledger.journal import Journal, LedgerError
from platform_assets.ledger.keys import DeploymentKey, KeyFileError, new_private_key, read_key
from platform_assets.ledger.verification import Anchor, verify_chain

KEY = read_key(new_private_key())
OTHER = read_key(new_private_key())
UNSIGNED = DeploymentKey()
X25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VuAyEAhSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=
-----END PUBLIC KEY-----
"""
Lines = list[bytes]


def written(home: Path, key: DeploymentKey = KEY, entries: int = 4) -> Journal:
    """A ledger with switches to the versions from 1."""
    journal = Journal(home / "ledger" / "iris.jsonl", "iris")
    for version in range(1, entries + 1):
        journal.append(SWITCH, {"version": version, "share": 0.1}, key)
    return journal


def problems(lines: Lines, key: DeploymentKey = KEY, *anchors: Anchor) -> list[str]:
    return verify_chain(lines, "iris", key, anchors).problems


def changed(line: bytes, **fields: Any) -> bytes:
    return canonical({**json.loads(line), **fields})


def forged(lines: Lines, key: DeploymentKey) -> Lines:
    """All entries anew from the second, with hashes that fit, as the holder of `key` can."""
    last = parse_line(lines[0])
    result = lines[:1]
    for number, line in enumerate(lines[1:]):
        old = parse_line(line)
        content = {**old.content, "version": 99} if number == 0 else old.content
        last = next_entry("iris", last, old.kind, content, key, old.at)
        result.append(last.line)
    return result


def test_ledger_as_it_was_written_has_no_problem(tmp_path: Path) -> None:
    journal = written(tmp_path)
    entries = journal.entries()
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.content["version"] for entry in entries] == [1, 2, 3, 4]
    assert entries[0].previous == ""
    assert entries[1].previous == entries[0].hash
    found = verify_chain(journal.lines()[0], "iris", KEY, [Anchor(4, entries[3].hash, "a copy")])
    assert (found.problems, found.notes) == ([], [])


TAMPERING: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "content edited": (
        lambda lines: [*lines[:1], changed(lines[1], content={"version": 9}), *lines[2:]],
        "Entry 2 was edited: its content does not have its hash.",
    ),
    "time edited": (
        lambda lines: [*lines[:3], changed(lines[3], at="2001-01-01T00:00:00+00:00")],
        "Entry 4 was edited",
    ),
    "spaces added": (
        lambda lines: [json.dumps(json.loads(lines[0])).encode(), *lines[1:]],
        "Entry 1 was edited",
    ),
    "line replaced by garbage": (
        lambda lines: [*lines[:1], b"{", *lines[2:]],
        "Line 2 was edited: it is not an entry",
    ),
    "entry removed": (
        lambda lines: [*lines[:1], *lines[2:]],
        "Entry 2 was removed or moved: entry 3 stands in its place.",
    ),
    "two entries removed": (
        lambda lines: [lines[0], lines[3]],
        "Entry 2-3 was removed or moved",
    ),
    "first entry removed": (
        lambda lines: lines[1:],
        "Entry 1 was removed or moved: entry 2 stands in its place.",
    ),
    "entries swapped": (
        lambda lines: [lines[0], lines[2], lines[1], lines[3]],
        "Entry 2 was removed or moved: entry 3 stands in its place.",
    ),
    "entry repeated": (
        lambda lines: [*lines[:2], lines[1], *lines[2:]],
        "Entry 2 was moved or repeated: it stands after 2.",
    ),
    "entry replaced by the holder of the key": (
        lambda lines: [*forged(lines, KEY)[:2], *lines[2:]],
        "Entry 3 does not follow the entry before it",
    ),
    "signature removed": (
        lambda lines: [*lines[:3], changed(lines[3], signature="")],
        "The signature of entry 4 is not that of its key.",
    ),
    "rest written anew with another key": (
        lambda lines: forged(lines, OTHER),
        f"Entry 2 is signed with another key ({OTHER.signing_id}) than the trusted",
    ),
    "rest written anew without a key": (
        lambda lines: forged(lines, UNSIGNED),
        "Entry 2 is not signed; earlier ones are.",
    ),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_detected(kind: str, tmp_path: Path) -> None:
    tamper, expected = TAMPERING[kind]
    lines = tamper(written(tmp_path).lines()[0])
    assert any(one.startswith(expected) for one in problems(lines)), problems(lines)


def test_entry_that_claims_a_trusted_key_is_detected(tmp_path: Path) -> None:
    lines = written(tmp_path).lines()[0]
    last = parse_line(lines[2])
    body = next_entry("iris", last, SWITCH, {"version": 9}, OTHER, last.at)
    claimed = {**json.loads(body.line), "key": KEY.signing_id}
    unsealed = {k: v for k, v in claimed.items() if k not in {"hash", "signature"}}
    claimed["hash"] = body_hash(unsealed)
    claimed["signature"] = OTHER.sign("entry", claimed["hash"])
    assert problems([*lines[:3], canonical(claimed)]) == [
        "The signature of entry 4 is not that of its key."
    ]


def test_end_that_was_cut_off_is_detected_by_what_others_keep(tmp_path: Path) -> None:
    journal = written(tmp_path)
    lines, newest = journal.lines()[0], journal.entries()[3]
    anchor = Anchor(4, newest.hash, "MLflow's tag of version 4")
    assert problems(lines[:3]) == [], "the chain alone cannot know"
    assert problems(lines[:3], KEY, anchor) == [
        "The ledger ends with entry 3, but MLflow's tag of version 4 knows entry 4: the end was "
        "cut off."
    ]
    assert len(problems([], KEY, anchor)) == 1
    # Cut off, then continued by the deployment itself.
    journal.path.write_bytes(b"".join(line + b"\n" for line in lines[:3]))
    journal.append(SWITCH, {"version": 5}, KEY)
    assert problems(journal.lines()[0], KEY, anchor) == [
        "Entry 4 has another hash than MLflow's tag of version 4 knows: it was replaced."
    ]


def test_ledger_of_another_model_is_detected(tmp_path: Path) -> None:
    found = verify_chain(written(tmp_path).lines()[0], "cars", KEY)
    assert found.problems[0] == "Entry 1 is of the model iris."


def test_old_keys_are_listed_after_the_one_that_replaced_them(tmp_path: Path) -> None:
    journal = written(tmp_path, entries=2)
    pem = new_private_key()
    rotated = read_key(pem + KEY.public_pem)
    journal.append(SWITCH, {"version": 3}, rotated)
    lines = journal.lines()[0]
    assert rotated.ids == (rotated.signing_id, KEY.signing_id)
    assert problems(lines, rotated) == []
    assert problems(lines, read_key(rotated.public_pem)) == [], "public keys alone verify"
    assert "signed with another key" in problems(lines, read_key(pem))[0]
    journal.append(SWITCH, {"version": 4}, KEY)
    assert problems(journal.lines()[0], rotated) == [
        f"Entry 4 is signed with the key {KEY.signing_id} after it was replaced."
    ]


def test_replaced_key_stays_replaced_where_a_key_is_listed_twice() -> None:
    new, old = new_private_key(), new_private_key()
    first = next_entry("m", None, "switch", {"version": 1}, read_key(new), "2026-01-01")
    forged = next_entry("m", first, "switch", {"version": 9}, read_key(old), "2026-01-02")
    listed = read_key(new + read_key(old).public_pem + read_key(new).public_pem)
    [problem] = verify_chain([first.line, forged.line], "m", listed).problems
    assert "Entry 2 is signed with the key" in problem
    assert "after it was replaced" in problem


def test_deployment_without_a_key_chains_and_says_so(tmp_path: Path) -> None:
    journal = written(tmp_path, UNSIGNED)
    lines = journal.lines()[0]
    found = verify_chain(lines, "iris", UNSIGNED)
    assert found.problems == []
    assert found.notes[0].startswith("Entries 1 to 4 are chained but not signed")
    assert problems([*lines[:1], *lines[2:]], UNSIGNED) != []
    assert problems(lines, KEY)[0].startswith("Entries 1 to 4 are not signed although")
    journal.append(SWITCH, {"version": 5}, KEY)
    covered = verify_chain(journal.lines()[0], "iris", KEY)
    assert covered.problems == []
    assert "the first signed entry covers them" in covered.notes[0]
    assert "none: name it with --key" in problems(journal.lines()[0], UNSIGNED)[0]


def test_entry_that_was_not_finished_is_replaced_by_the_next(tmp_path: Path) -> None:
    journal = written(tmp_path, entries=2)
    with journal.path.open("ab") as file:
        file.write(b'{"at":"2026-01-02T03:04:05.000+00:00","cont')
    lines, rest = journal.lines()
    found = verify_chain(lines, "iris", KEY, rest=rest)
    assert found.problems == []
    assert "an entry that was not finished" in found.notes[0]
    assert journal.append(SWITCH, {"version": 3}, KEY).number == 3
    assert [entry.number for entry in journal.entries()] == [1, 2, 3]
    assert problems(journal.lines()[0]) == []


def test_nothing_is_appended_to_a_ledger_that_is_not_readable(tmp_path: Path) -> None:
    journal = written(tmp_path, entries=2)
    before = journal.path.read_bytes().replace(b"version", b"vers\0", 1)
    journal.path.write_bytes(before)
    with pytest.raises(LedgerError, match=r"line 1 of the ledger .* is not an entry"):
        journal.append(SWITCH, {"version": 3}, KEY)
    assert journal.path.read_bytes() == before


def test_what_is_told_twice_is_one_entry(tmp_path: Path) -> None:
    journal = written(tmp_path, entries=2)
    again = journal.append(
        SWITCH, {"version": 1}, KEY, is_same=lambda one: one.content["version"] == 1
    )
    assert again.number == 1
    assert len(journal.entries()) == 2


def test_a_ledger_older_than_its_chain_begins_with_what_was_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "iris.jsonl", "iris")
    for version in (3, 4):
        journal.append(SWITCH, {"version": version}, KEY, before=lambda: {"switches": [1, 2]})
    first, *later = journal.entries()
    assert (first.kind, first.content) == (BEGINNING, {"switches": [1, 2]})
    assert [entry.content["version"] for entry in later] == [3, 4]


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    journal = written(tmp_path, entries=1)
    second = threading.Thread(target=journal.append, args=(SWITCH, {"version": 3}, KEY))

    def is_same(_: LedgerEntry) -> bool:
        """Runs while the first writer is between reading and writing."""
        second.start()
        second.join(0.3)
        assert second.is_alive(), "it wrote beside the first writer"
        return False

    journal.append(SWITCH, {"version": 2}, KEY, is_same=is_same)
    second.join(30)
    assert [entry.content["version"] for entry in journal.entries()] == [1, 2, 3]
    assert problems(journal.lines()[0]) == []


def _write_many(path: Path, writer: int) -> None:
    for number in range(10):
        Journal(path, "iris").append(SWITCH, {"writer": writer, "number": number}, KEY)


def test_concurrent_writers_do_not_fork_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "iris.jsonl"
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_many, args=(path, writer)) for writer in range(3)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    journal = Journal(path, "iris")
    assert problems(journal.lines()[0]) == []
    for writer in range(3):
        own = [e.content["number"] for e in journal.entries() if e.content["writer"] == writer]
        assert own == list(range(10))


def test_ledger_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "iris.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"iris\.jsonl cannot be read"):
        Journal(tmp_path / "iris.jsonl", "iris").entries()


def test_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"cannot be written .* make room there"):
        Journal(tmp_path / "file" / "iris.jsonl", "iris").append(SWITCH, {}, KEY)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/nowhere/key.pem", "cannot be read: .*/nowhere/key.pem"),
        ("/dev/null", "is not PEM: make one with `openssl genpkey -algorithm ed25519`"),
        ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----", "is not valid"),
        (new_private_key() + new_private_key(), "several private keys"),
        (X25519, "a PUBLIC KEY of the ledger's key is not Ed25519"),
    ],
    ids=["no file", "no PEM", "no key", "two keys", "another kind"],
)
def test_key_that_cannot_be_used_is_an_error_without_its_bytes(value: str, message: str) -> None:
    with pytest.raises(KeyFileError, match=message) as raised:
        read_key(value)
    assert "c2VjcmV0" not in str(raised.value)
