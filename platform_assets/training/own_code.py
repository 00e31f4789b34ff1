"""Modules with the functions and pipelines of candidates, in a package or in `MODELS_DIR`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

MODELS_DIR: Final = "MODELS_DIR"
"""Environment variable: further folders of models, separated like those of PATH."""


def own_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of `MODELS_DIR`."""
    folders = environ.get(MODELS_DIR, "").split(os.pathsep)
    return tuple(Path(folder).expanduser().absolute() for folder in folders if folder)


def find_module(name: str) -> ModuleSpec | None:
    """Return the spec of a module, or None; this runs the code of its parent packages."""
    _extend_path()
    return importlib.util.find_spec(name)


def import_module(name: str) -> ModuleType:
    """Import a module; its code may raise anything."""
    _extend_path()
    return importlib.import_module(name)


def _extend_path() -> None:
    # At each use, because Dagster restores the path after loading the definitions. Appended, so
    # that no file there shadows a package.
    sys.path += [str(folder) for folder in own_folders() if str(folder) not in sys.path]
    importlib.invalidate_caches()  # a module may be written while the code server runs
