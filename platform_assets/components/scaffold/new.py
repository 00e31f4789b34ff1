"""`python -m platform_assets.components new`, which `make model` calls."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platform_assets.components.loading import SHIPPED, model_folders
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError
from platform_assets.components.scaffold.scaffolder import TableParams
from platform_assets.training.own_code import MODELS_DIR

_OPTIONS = {name: one for name, one in TableParams.model_fields.items() if name != "csv"}


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `argparse`."""
    new = commands.add_parser("new", help="make a model file from a table")
    new.add_argument("table", help=TableParams.model_fields["csv"].description)
    for name, option in _OPTIONS.items():
        new.add_argument(f"--{name}", required=name == "target", help=option.description)
    new.add_argument(
        "--folder",
        type=Path,
        help=f"a folder of models; by default the first one of {MODELS_DIR}, else the shipped ones",
    )


def run(given: argparse.Namespace) -> int:
    """Make the file and say what was decided; 1 with one sentence where it cannot be made."""
    if not given.table or not given.target:
        print(
            "no model file was made: name the table and the column to predict, as in make model "
            "CSV=patients.csv TARGET=readmitted",
            file=sys.stderr,
        )
        return 1
    # Here: the other commands need neither DuckDB nor the training.
    from platform_assets.components.scaffold.command import make_model

    folder = given.folder or default_folder()
    try:
        request = ModelRequest(given.table, **{name: getattr(given, name) for name in _OPTIONS})
        outcome = make_model(request, folder, say=print)
    except ScaffoldError as error:
        print(f"no model file was made: {error}", file=sys.stderr)
        return 1
    print("\n".join(outcome.lines()))
    print(f"next: make chain MODEL={outcome.draft.spec.model_name}")
    if folder.absolute() not in {SHIPPED, *model_folders()}:
        print(f"      (for a platform that was started with {MODELS_DIR}={folder})")
    return 0


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where new models go: the first folder of `MODELS_DIR`, else the shipped one."""
    folders = model_folders(environ)
    return folders[1] if len(folders) > 1 else folders[0]
