"""Checks model files, or prints their JSON schema: `python -m platform_assets.components`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from platform_assets.components.loading import MODELS_DIR, Models, model_folders, read_models
from platform_assets.components.model_file import FILE_NAMES
from platform_assets.components.schema import file_schema
from platform_assets.model_spec import DatasetSource, FileSource, ModelSpec, SqlSource


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 1 when a model file has a problem, else 0."""
    parser = argparse.ArgumentParser(prog="python -m platform_assets.components")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="print each problem as file:line: field: message")
    check.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="a folder of models, or one model's folder or file; default: the shipped ones and "
        f"those of {MODELS_DIR}",
    )
    commands.add_parser("schema", help="print the JSON schema of a model file, for editors")
    given = parser.parse_args(arguments)
    if given.command == "schema":
        print(json.dumps(file_schema(), indent=2))
        return 0
    return _check(given.folder)


def _check(folder: Path | None) -> int:
    folders = model_folders()
    if folder is None:
        return _report(read_models(folders))
    if folder.name in FILE_NAMES:
        folder = folder.parent
    # The others are read as well: their names are taken.
    models, inside = read_models((folder, *folders)), folder.resolve()
    return _report(
        Models(
            {
                file: spec
                for file, spec in models.specs.items()
                if file.resolve().is_relative_to(inside)
            },
            tuple(
                found for found in models.problems if found.file.resolve().is_relative_to(inside)
            ),
        )
    )


def _report(models: Models) -> int:
    for problem in models.problems:
        print(problem)
    for spec in models.specs.values():
        print(f"{spec.model_name}: {_summary(spec)}")
    if not models.specs and not models.problems:
        print("no model files: each is <folder>/<model>/defs.yaml")
        return 1
    broken = len(models.broken)
    print(f"{len(models.specs)} good, {broken} broken" if broken else "all good")
    return 1 if broken else 0


def _summary(spec: ModelSpec) -> str:
    match spec.source:
        case FileSource(path):
            source = path
        case DatasetSource(name):
            source = name
        case SqlSource():
            source = "a query"
    return f"{spec.task} of {spec.target.name}, {len(spec.features)} features, from {source}"


if __name__ == "__main__":
    sys.exit(main())
