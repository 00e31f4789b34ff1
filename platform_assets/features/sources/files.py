"""A CSV or Parquet file, a folder of them (partitioned or not), or a glob pattern."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.csv_file import CsvFile
from platform_assets.features.sources.parquet_file import ParquetFile
from platform_assets.features.sources.reader import Progress, SourceTable, check_columns
from platform_assets.features.sources.sink import RowSink
from platform_assets.resources.source import SourceError

_KINDS: Final = dict.fromkeys((".csv", ".tsv", ".csv.gz", ".tsv.gz"), "CSV") | {
    ".parquet": "Parquet"
}
_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
_SETTLED_S: Final = 2.0
"""A file changed this recently may change again without a new time stamp."""


class FileReader:
    """Files of one kind, concatenated in the order of their names.

    `template` is the path as the model file has it, shown in errors instead of the expanded one;
    `key` is that of `TableBuilder`.
    """

    def __init__(
        self,
        template: str,
        path: str,
        columns: Sequence[Column],
        key: str | None,
        separator: str | None,
    ) -> None:
        self._path = Path(path).expanduser().absolute()
        self._shown = str(self._path) if template == path else template
        self._columns, self._key, self._separator = columns, key, separator

    @property
    def name(self) -> str:
        """The name of the source in errors."""
        if _is_pattern(self._path):
            return f"the source files {self._shown}"
        return f"the source {'folder' if self._path.is_dir() else 'file'} {self._shown}"

    def fingerprint(self) -> str:
        """SHA-256 of one file's bytes; for several, of their names and digests, in order.

        The digest of an unchanged file is cached.
        """
        return self._identity(self.files(), cached_digest)

    def revision(self) -> str | None:
        """SHA-256 of names, sizes and times; None while a file is too recent to trust them."""
        state = hashlib.sha256(str(self._path).encode())
        for file in self.files():
            with self._access(file):
                stat = file.stat()
            if not _is_settled(stat):
                return None
            state.update(repr((self._label(file), _state(stat))).encode())
        return state.hexdigest()

    def check_header(self) -> None:
        """Raise SourceError unless the first file has the wanted columns; reads no rows."""
        file = self.files()[0]
        with self._access(file):
            opened = self._open(file)
            names = [*opened.header()[0], *opened.constants]
        check_columns(opened.name, names, self._columns)

    def read(self, progress: Progress) -> SourceTable:
        """Read all files; SourceError also when one of them changes meanwhile."""
        from platform_assets.features.sources.builder import TableBuilder

        files = self.files()
        fingerprint = self._identity(files, _digest)
        builder = TableBuilder(self._columns, self._key, progress)
        self._feed(files, builder)
        if self.files() != files or self._identity(files, _digest) != fingerprint:
            raise SourceError(
                f"{self.name} changed while it was read",
                "run again; writers of a file should write a new one next to it and rename it",
            )
        return builder.build(self.name, lambda _: fingerprint)

    def read_into(self, sink: RowSink) -> None:
        """Pass all rows to `sink` as they are in the files; raises SourceError like `read`."""
        self._feed(self.files(), sink)

    def _feed(self, files: Sequence[Path], sink: RowSink) -> None:
        for file in files:
            with self._access(file):
                self._open(file).read_into(sink)

    def _open(self, file: Path) -> CsvFile | ParquetFile:
        part = self._label(file)
        constants = _partitions(Path(part))
        if _kind(file) == "Parquet":
            return ParquetFile(file, self._display_name(file), part, constants)
        dialect = self._separator, self._columns
        return CsvFile(file, self._display_name(file), part, constants, *dialect)

    def files(self) -> list[Path]:
        """Return the files in the order of their names; SourceError where there are none."""
        if self._path.is_dir():
            with self._access(self._path):
                files = [path for path in _partition_files(self._path) if _kind(path)]
        elif _is_pattern(self._path):
            files = [Path(path) for path in glob.glob(str(self._path), recursive=True)]  # noqa: PTH207 # the pattern is absolute
            files = [path for path in files if path.is_file()]
        else:
            files = [self._path]
        files = sorted(path for path in files if not path.name.startswith("."))
        if {_kind(path) for path in files} in ({"CSV"}, {"Parquet"}):
            return files
        endings = ", ".join(sorted({repr(path.suffix.lower()) for path in files}))
        problem = f"the names end in {endings}" if files else "no CSV or Parquet file is there"
        raise SourceError(
            f"{self.name}: {problem}",
            "use files that all end in .csv (.csv.gz, .tsv), or all in .parquet, and run again",
        )

    def _identity(self, files: Sequence[Path], digest: Callable[[Path], str]) -> str:
        whole = hashlib.sha256()
        for file in files:
            with self._access(file):
                content = digest(file)
            if file == self._path:
                return content
            whole.update(f"{self._label(file)}\0{content}\n".encode())
        return whole.hexdigest()

    def _label(self, file: Path) -> str:
        folder = self._path
        while not folder.is_dir():  # for a pattern, its last folder without a wildcard
            folder = folder.parent
        return str(file.relative_to(folder))

    @contextmanager
    def _access(self, file: Path) -> Iterator[None]:
        """Turn an OSError on a file into a SourceError."""
        try:
            yield
        except OSError as exc:
            missing = isinstance(exc, FileNotFoundError)
            problem = "does not exist" if missing else f"cannot be read ({exc.strerror or exc})"
            raise SourceError(
                f"{self._display_name(file)} {problem}",
                "put a file there that this user may read, or correct the path in the model file "
                "or its variable, and run again",
            ) from exc

    def _display_name(self, file: Path) -> str:
        if file == self._path:
            return self.name
        return f"the source file {self._label(file)} of {self._shown}"


def _kind(file: Path) -> str | None:
    return next((kind for end, kind in _KINDS.items() if file.name.lower().endswith(end)), None)


def _partition_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of its Hive partitions."""
    for entry in folder.iterdir():
        yield from _partition_files(entry) if entry.is_dir() and "=" in entry.name else [entry]


def _partitions(label: Path) -> dict[str, str | None]:
    """Return the columns that the folders on a file's path define: `year=2024/part.parquet`."""
    pairs = (unquote(part).partition("=") for part in label.parent.parts if "=" in part)
    return {name: None if value == _NO_VALUE else value for name, _, value in pairs}


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=10_000)
def _digest_of_state(path: Path, _state: tuple[int, ...]) -> str:
    return _digest(path)


def cached_digest(path: Path) -> str:
    """Return the SHA-256 of a file, cached while it is unchanged; OSError like `open`."""
    stat = path.stat()
    return _digest_of_state(path, _state(stat)) if _is_settled(stat) else _digest(path)


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_settled(stat: os.stat_result) -> bool:
    return time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_S
