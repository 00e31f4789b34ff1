"""Make and verify passports: `python -m platform_assets.passport`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import dagster as dg
import msgspec

from platform_assets.ledger.journal import LedgerError
from platform_assets.ledger.keys import KeyFileError, read_key
from platform_assets.ledger.resource import FOLDER_VARIABLE, LedgerFolder
from platform_assets.ledger.verification import Findings
from platform_assets.passport.document import decode, encode, seal
from platform_assets.passport.making import Sources, make_passport
from platform_assets.passport.page import passport_page
from platform_assets.passport.verification import verify_passport, verify_version
from platform_assets.resources.atomic_files import replace_file
from platform_assets.resources.mlflow import MlflowResource
from platform_assets.resources.model_repository import ModelRepository
from serving_gateway.contract import is_model_name

_FAILED: Final = 1
_USAGE: Final = 2
_MOST_DIGITS: Final = 18


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after printing each problem in a sentence."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not _is_version(options.what) and not (options.verify and len(options.what) == 1):
        parser.print_usage(sys.stderr)
        print("name a model and a version, or with --verify a passport's file", file=sys.stderr)
        return _USAGE
    try:
        with ExitStack() as stack:
            sources = _sources(options.key, stack)
            if options.verify:
                return _report(_verify(sources, options.what))
            return _make(sources, options.what[0], int(options.what[1]), options.out)
    except (LedgerError, KeyFileError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m platform_assets.passport",
        description="Write the passport of a version as a page and a JSON document, or verify one.",
    )
    parser.add_argument("what", nargs="+", help="MODEL VERSION; with --verify also FILE")
    parser.add_argument(
        "--verify", action="store_true", help="compare all records; exit 1 with each problem"
    )
    parser.add_argument("--key", default="", help="PEM file of the trusted keys (LEDGER_KEY)")
    parser.add_argument(
        "--out", type=Path, help=f"folder; default: passports/MODEL below {FOLDER_VARIABLE}"
    )
    return parser


def _is_version(what: Sequence[str]) -> bool:
    if len(what) != 2:
        return False
    model_name, version = what
    is_number = version.isdecimal() and len(version) <= _MOST_DIGITS
    return is_model_name(model_name) and is_number


def _sources(key: str, stack: ExitStack) -> Sources:
    """Return the sources that the environment names."""
    ledger, environ = LedgerFolder(), os.environ
    tracking, repository = environ.get("MLFLOW_TRACKING_URI"), environ.get("MODEL_REPOSITORY")
    has_dagster = bool(environ.get("DAGSTER_HOME"))
    return Sources(
        journal=ledger.journal,
        key=read_key(key) if key else ledger.deployment_key(),
        instance=stack.enter_context(dg.DagsterInstance.get()) if has_dagster else None,
        mlflow=MlflowResource(tracking_uri=tracking) if tracking else None,
        repository=ModelRepository(root=repository) if repository else None,
    )


def _verify(sources: Sources, what: Sequence[str]) -> Findings:
    if len(what) == 2:
        return verify_version(sources, what[0], int(what[1]))
    try:
        sealed = decode(Path(what[0]).read_bytes())
    except msgspec.MsgspecError as error:
        return Findings(problems=[f"{what[0]} is not a passport: {error}."])
    return verify_passport(sources, sealed)


def _report(findings: Findings) -> int:
    for note in findings.notes:
        print(f"note: {note}")
    for problem in findings.problems:
        print(f"PROBLEM: {problem}")
    if not findings.problems:
        print("Nothing was changed, as far as the records above reach.")
    return _FAILED if findings.problems else 0


def _make(sources: Sources, model_name: str, version: int, out: Path | None) -> int:
    sealed = seal(make_passport(sources, model_name, version), sources.key)
    if not sealed.passport.facts and not sealed.passport.periods:
        print(f"Nothing is known of version {version} of {model_name}.", file=sys.stderr)
        for line in sealed.passport.missing:
            print(line, file=sys.stderr)
        return _FAILED
    folder = out or _folder(model_name)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, data in (("json", encode(sealed)), ("html", passport_page(sealed).encode())):
        path = folder / f"v{version}.{suffix}"
        replace_file(path, data)
        print(path)
    for line in sealed.passport.missing:
        print(f"missing: {line}")
    return 0


def _folder(model_name: str) -> Path:
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        raise LedgerError(f"no folder is named: give --out, or set {FOLDER_VARIABLE}")
    return Path(root).expanduser().absolute() / "passports" / model_name


if __name__ == "__main__":
    sys.exit(main())
