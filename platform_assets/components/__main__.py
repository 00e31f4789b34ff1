"""Create, check or describe model files: `python -m platform_assets.components`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from platform_assets.components.diagnostics import Diagnostic
from platform_assets.components.document import read_document
from platform_assets.components.loading import Models, model_folders, read_models
from platform_assets.components.reference import reference_table
from platform_assets.components.scaffold.new import add_parser, run
from platform_assets.components.schema import FILE_NAMES, file_schema
from platform_assets.features.source import open_source
from platform_assets.features.sources.duckdb_query import DuckdbReader
from platform_assets.features.sources.files import FileReader
from platform_assets.model_spec import ModelSpec, SourceSpec
from platform_assets.resources.source import ColumnsError, QueryError, SourceError, SourceResource
from platform_assets.training.own_code import MODELS_DIR


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 1 if a model file has a problem, else 0."""
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
    add_parser(commands)
    commands.add_parser("schema", help="print the JSON schema of a model file, for editors")
    commands.add_parser(
        "reference", help="print the fields of a model file, as REFERENCE.md has them"
    )
    options = parser.parse_args(arguments)
    if options.command == "check":
        return _check(options.folder)
    if options.command == "new":
        return run(options)
    schema = options.command == "schema"
    print(json.dumps(file_schema(), indent=2) if schema else reference_table())
    return 0


def _check(folder: Path | None) -> int:
    folders = model_folders()
    if folder is None:
        return _report(read_models(folders))
    if folder.name in FILE_NAMES:
        folder = folder.parent
    # The other folders are read as well, since their names are taken.
    models, inside = read_models((folder, *folders)), folder.resolve()
    specs = {file: s for file, s in models.specs.items() if file.resolve().is_relative_to(inside)}
    tables = {file: t for file, t in models.tables.items() if file.resolve().is_relative_to(inside)}
    problems = (
        problem for problem in models.problems if problem.file.resolve().is_relative_to(inside)
    )
    return _report(Models(specs, tuple(problems), tables))


def _report(models: Models) -> int:
    models = _with_headers(models)
    for problem in models.problems:
        print(problem)
    for table in models.tables.values():
        print(f"{table.name}: table of {len(table.features)} columns, from {_place(table)}")
    for spec in models.specs.values():
        what = f"{spec.task} of {spec.target.name}, {len(spec.features)} features"
        print(f"{spec.name}: {what}, from {_place(spec)}")
    if not models.specs and not models.tables and not models.problems:
        print("no model files: each is <folder>/<model>/defs.yaml")
        return 1
    broken = len(models.broken)
    good = len(models.specs) + len(models.tables)
    print(f"{good} good, {broken} broken" if broken else "all good")
    return 1 if broken else 0


def _with_headers(models: Models) -> Models:
    """Check the column names of existing files; others may be created later."""
    wrong: dict[Path, Diagnostic] = {}
    for file, spec in {**models.tables, **models.specs}.items():
        for part, table in _sources(spec):
            try:
                reader = open_source(table, SourceResource())
                if isinstance(reader, FileReader | DuckdbReader):
                    reader.check_header()
            except (ColumnsError, QueryError) as error:
                kind = ("duckdb", "query") if table.source.duckdb else ("file",)
                place = (*part, "source", *kind)
                line = read_document(file).line(("attributes", *place))
                wrong[file] = Diagnostic(file, line, ".".join(place), str(error))
            except SourceError as error:
                what = f"the columns of its {part[0]}" if part else "its columns"
                print(f"{spec.name}: note: {what} were not looked at: {error}")
    return Models(
        {file: spec for file, spec in models.specs.items() if file not in wrong},
        (*models.problems, *wrong.values()),
        {file: table for file, table in models.tables.items() if file not in wrong},
    )


def _sources(spec: SourceSpec) -> Iterator[tuple[tuple[str, ...], SourceSpec]]:
    """Yield the tables that are read, with the field of the model file that has the source."""
    if not isinstance(spec, ModelSpec):
        yield (), spec
        return
    yield ("labels",) if spec.labels else (), spec
    # With `outcomes: labels` the columns are those of the label table, already checked.
    if spec.outcome_table is not None and spec.outcomes and spec.outcomes.source:
        yield ("outcomes",), spec.outcome_table


def _place(spec: SourceSpec) -> str:
    source = spec.source
    return source.file or source.dataset or source.feast_view or "a query"


if __name__ == "__main__":
    sys.exit(main())
