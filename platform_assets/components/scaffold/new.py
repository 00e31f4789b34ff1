"""The command `python -m platform_assets.components new`, called by `make model`."""

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

_OPTIONS = {name: field for name, field in TableParams.model_fields.items() if name != "csv"}


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


def run(options: argparse.Namespace) -> int:
    """Create the file and print the decisions; return 1 after one sentence if that fails."""
    if not options.table or not options.target:
        print(
            "no model file was made: name the table and the column to predict, as in make model "
            "CSV=patients.csv TARGET=readmitted",
            file=sys.stderr,
        )
        return 1
    # Imported here: the other commands need neither DuckDB nor the training.
    from platform_assets.components.scaffold.command import make_model

    folder = options.folder or default_folder()
    try:
        request = ModelRequest(options.table, **{name: getattr(options, name) for name in _OPTIONS})
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
    """Return the folder of new models: the first of `MODELS_DIR`, else the built-in one."""
    folders = model_folders(environ)
    return folders[1] if len(folders) > 1 else folders[0]
