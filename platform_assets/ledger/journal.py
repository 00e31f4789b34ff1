"""The file of one model's ledger: entries are appended to it one at a time, and never changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from platform_assets.ledger.chain import BEGINNING, LedgerEntry, next_entry, parse_line
from platform_assets.ledger.keys import DeploymentKey
from platform_assets.resources.atomic_files import fsync_directory, lock_file

Content = Mapping[str, Any]


class LedgerError(Exception):
    """The ledger cannot be read or written; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A model's ledger as lines of JSON, oldest first."""

    path: Path
    model_name: str

    def lines(self) -> tuple[list[bytes], bytes]:
        """Return the complete lines, and the rest after the last one: an unfinished entry.

        Raises:
            LedgerError: the file exists and cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], b""
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} cannot be read: {error}") from error
        *whole, rest = data.split(b"\n")
        return whole, rest

    def entries(self) -> list[LedgerEntry]:
        """Return all entries, oldest first.

        Raises:
            LedgerError: the file cannot be read, or one of its lines is not an entry.
        """
        entries: list[LedgerEntry] = []
        for number, line in enumerate(self.lines()[0], 1):
            try:
                entries.append(parse_line(line))
            except msgspec.MsgspecError as error:
                raise LedgerError(
                    f"line {number} of the ledger {self.path} is not an entry ({error}): restore "
                    "the file from a backup; `make passport` with VERIFY=1 names all that differs"
                ) from error
        return entries

    def append(
        self,
        kind: str,
        content: Content,
        key: DeploymentKey,
        *,
        is_same: Callable[[LedgerEntry], bool] = lambda _: False,
        before: Callable[[], Content | None] = lambda: None,
    ) -> LedgerEntry:
        """Write an entry durably and return it; if one `is_same`, that is returned instead.

        Writers wait for each other, so no two entries follow the same one. `before` provides the
        content of a first entry if the ledger is only started now.

        Raises:
            LedgerError: it cannot be written; the file is unchanged, or ends in an unfinished
                line, which the next writer removes.
        """
        with self._locked():
            entries, added = self.entries(), list[LedgerEntry]()
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            last = entries[-1] if entries else None
            if last is None and (first := before()) is not None:
                last = next_entry(self.model_name, last, BEGINNING, first, key, at)
                added.append(last)
            # The first entry may include it already.
            for known in reversed([*entries, *added]):
                if is_same(known):
                    break
            else:
                known = next_entry(self.model_name, last, kind, content, key, at)
                added.append(known)
            if added:
                self._write(added)
            return known

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with lock_file(self.path.with_suffix(".lock")):
                yield
        except OSError as error:
            raise LedgerError(
                f"the ledger {self.path} cannot be written ({error}): make room there and let this "
                "user write to it"
            ) from error

    def _write(self, added: Sequence[LedgerEntry]) -> None:
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            _, rest = self.lines()
            end = file.seek(0, os.SEEK_END)
            # Its writer died before it was durable, so nothing else refers to it.
            file.truncate(end - len(rest))
            file.seek(0, os.SEEK_END)
            file.write(b"".join(entry.line + b"\n" for entry in added))
            file.flush()
            os.fsync(descriptor)
        if is_new:
            fsync_directory(self.path.parent)
