"""A CSV or Parquet file, a folder of them, or a glob pattern."""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from platform_assets.features.sources.columns import Column
from platform_assets.features.sources.csv_file import csv_header, read_csv
from platform_assets.features.sources.parquet_file import parquet_header, read_parquet
from platform_assets.features.sources.reader import Progress, Raw, check_columns
from platform_assets.resources.source import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

_READERS: Final = {".csv": read_csv, ".parquet": read_parquet}
_HEADERS: Final = {".csv": csv_header, ".parquet": parquet_header}
_SETTLED_S: Final = 2.0
"""A file that changed within this time may change again at what its clock calls the same time."""


class FileReader:
    """Files of one kind, concatenated in the order of their names."""

    def __init__(self, path: str, columns: Sequence[Column]) -> None:
        self._path = Path(path).expanduser().absolute()
        self._columns = columns

    @property
    def name(self) -> str:
        """What errors call it."""
        if _is_pattern(self._path):
            return f"the source files {self._path}"
        kind = "folder" if self._path.is_dir() else "file"
        return f"the source {kind} {self._path}"

    @property
    def kinds(self) -> frozenset[str]:
        """Dagster's words for it."""
        return frozenset({"parquet" if self._path.suffix == ".parquet" else "csv"})

    def fingerprint(self) -> str:
        """SHA-256 of the bytes of one file; of several, of names and digests in their order.

        What an untouched file was found to hold is remembered.
        """
        return self._identity(self._files(), _remembered_digest)

    def check_header(self) -> None:
        """Compare the column names of the first file with the wanted ones; reads no row.

        Raises:
            ColumnsError: some are missing.
            SourceError: there is no file, or it cannot be read.
        """
        try:
            file = self._files()[0]
            found = _HEADERS[file.suffix.lower()](file)
        except OSError as exc:
            raise _unreadable(Path(exc.filename or self._path), exc) from exc
        check_columns(f"the source file {file}", found, self._columns)

    def read(self, progress: Progress) -> Raw:
        """Read all files; raises SourceError also when one of them changes meanwhile."""
        import pyarrow as pa

        files = self._files()
        fingerprint = self._identity(files, _digest)
        tables: list[pa.Table] = []
        ignored: tuple[str, ...] = ()
        for file in files:
            read = _READERS[file.suffix.lower()]
            table, others = read(file, self._columns, progress)
            if tables and set(others) != set(ignored):
                raise _disagreement(files[0], file, ignored, others)
            tables.append(table)
            ignored = others
        if self._files() != files or self._identity(files, _digest) != fingerprint:
            raise SourceError(
                f"{self.name} changed while it was read",
                "run again; writers of a file should write a new one beside it and rename it",
            )
        parts = tuple(
            (self._label(file), table.num_rows) for file, table in zip(files, tables, strict=True)
        )
        return Raw(self.name, pa.concat_tables(tables), parts, ignored, fingerprint)

    def _files(self) -> list[Path]:
        if self._path.is_dir():
            found = [one for one in self._path.iterdir() if one.suffix.lower() in _READERS]
        elif _is_pattern(self._path):
            found = [Path(one) for one in glob.glob(str(self._path), recursive=True)]  # noqa: PTH207 # the pattern is absolute
            found = [one for one in found if one.is_file()]
        else:
            found = [self._path]
        files = sorted(one for one in found if not one.name.startswith("."))
        if not files:
            raise SourceError(
                f"{self.name}: no CSV or Parquet file is there",
                "put files there that end in .csv or .parquet, and run again",
            )
        kinds = {one.suffix.lower() for one in files}
        if not kinds <= set(_READERS) or len(kinds) > 1:
            raise SourceError(
                f"{self.name}: the names end in {', '.join(sorted(map(repr, kinds)))}",
                "use files that all end in .csv, or all in .parquet, and run again",
            )
        return files

    def _identity(self, files: Sequence[Path], digest: Callable[[Path], str]) -> str:
        if not (len(files) > 1 or self._path.is_dir() or _is_pattern(self._path)):
            return digest(files[0])
        whole = hashlib.sha256()
        for file in files:
            whole.update(f"{self._label(file)}\0{digest(file)}\n".encode())
        return whole.hexdigest()

    def _label(self, file: Path) -> str:
        if self._path.is_dir():
            return file.name
        # Of a pattern: below the last folder that it names itself.
        fixed = next((one for one in self._path.parents if not _has_magic(one)), Path("/"))
        return str(file.relative_to(fixed))


def _has_magic(path: Path) -> bool:
    return glob.has_magic(str(path))


def _is_pattern(path: Path) -> bool:
    return _has_magic(path) and not path.exists()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _unreadable(path: Path, exc: OSError) -> SourceError:
    if isinstance(exc, FileNotFoundError):
        return SourceError(
            f"the source file {path} does not exist",
            "put the file there, or correct the path in the model file or its variable, and "
            "run again",
        )
    return SourceError(
        f"the source file {path} cannot be read ({exc.strerror or exc})",
        "make it a file that this user may read, and run again",
    )


_known: dict[Path, tuple[tuple[int, ...], str]] = {}


def _remembered_digest(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return _digest(path)
    state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    known = _known.get(path)
    if known is not None and known[0] == state:
        return known[1]
    digest = _digest(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_S:
        _known[path] = (state, digest)
    return digest


def _disagreement(
    first: Path, file: Path, ignored: tuple[str, ...], others: tuple[str, ...]
) -> SourceError:
    lacking = sorted(set(ignored) - set(others))
    more = sorted(set(others) - set(ignored))
    told = (("lacks", lacking), ("also has", more))
    said = [f"{word} {', '.join(names)}" for word, names in told if names]
    return SourceError(
        f"the source file {file} {' and '.join(said)}: it does not have the columns of {first}",
        "give all files the same columns, and run again",
    )
