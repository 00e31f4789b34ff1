"""Records as files of one folder; a crash leaves each as it was or as it should be."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

import msgspec

from serving_gateway.contract import RoutingRecord, is_model_name

_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_thread(work: Callable[_P, _T]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Turn a blocking function into a coroutine function that runs it in a thread."""

    @functools.wraps(work)
    async def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.to_thread(work, *args, **kwargs)

    return run


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically; a crash of the host may lose it."""
    staged = path.with_suffix(".staged")
    staged.write_bytes(data)
    staged.replace(path)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file, and create its folder if missing; after `OSError` the old file remains."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(f".{os.getpid()}.staged")
    try:
        with staged.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError:
        # A full disk has no room for half a record either.
        staged.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class RecordFiles:
    """A file for each model; processes of one host may share the folder, made when missing."""

    _prefix: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, model_name: str) -> Path:
        """The file of a model's record."""
        return self._directory / f"{self._prefix}{model_name}.json"

    def _names(self) -> set[str]:
        """The models that have a file; `OSError` when the folder cannot be listed."""
        try:
            files = os.listdir(self._directory)  # noqa: PTH208 -- paths of 500 models cost too much
        except FileNotFoundError:
            return set()
        kept = [file for file in files if file.startswith(self._prefix) and file.endswith(".json")]
        return set(filter(is_model_name, (file[len(self._prefix) : -5] for file in kept)))

    def _write(self, record: RoutingRecord) -> None:
        """Replace a record durably unless it is the same; after `OSError` the old file remains."""
        path, data = self.path(record.model_name), msgspec.json.format(msgspec.json.encode(record))
        # At startup most files are up to date; writing each durably would take seconds.
        if path.exists() and path.read_bytes() == data:
            return
        write_durably(path, data)
