"""Modules of the functions and pipelines that candidates name: of a package or of `MODELS_DIR`."""

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
"""Environment variable: more folders of models, separated as those of PATH are."""


def own_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of `MODELS_DIR`."""
    folders = environ.get(MODELS_DIR, "").split(os.pathsep)
    return tuple(Path(folder).expanduser().absolute() for folder in folders if folder)


def find_module(name: str) -> ModuleSpec | None:
    """Return where a module is, or None; of a package above it, the code is run."""
    _extend_path()
    return importlib.util.find_spec(name)


def import_module(name: str) -> ModuleType:
    """Import a module; its code may raise anything."""
    _extend_path()
    return importlib.import_module(name)


def _extend_path() -> None:
    # At each use, because Dagster restores the path when it has loaded the definitions. Last, so
    # that no file there takes the place of a package.
    sys.path += [str(one) for one in own_folders() if str(one) not in sys.path]
    importlib.invalidate_caches()  # a module may be written while the code server runs
