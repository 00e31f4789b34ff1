"""`python -m platform_assets.prediction_log erase`: an entity or a client, with its outcomes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from platform_assets.prediction_log.erasure import Erasure, erase
from platform_assets.prediction_log.subjects import Subject, client_subject, entity_subject
from serving_gateway.contract import LOG_KEY_FILE, check_model_name

_WRONG: Final = 1
_ELSEWHERE: Final = (
    "Rows of the last seconds that gateways have not written yet are not among them: run this "
    "again after GATEWAY_SAMPLE_SECONDS. The source, the feature store, MLflow's artifacts, what "
    "Dagster keeps of replays and drift, files of batch predictions, examples of GET /shadow until "
    "a restart, and backups are not reached."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 after printing why something could not be erased, else 0."""
    options = _parser().parse_args(arguments)
    try:
        subject = _subject(options)
        folder = _folder(options)
        erasure = erase(folder, subject)
    except (OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return _WRONG
    return _report(erasure, folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m platform_assets.prediction_log")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("erase", help="erase an entity, or a client, and its outcomes")
    command.add_argument("model")
    command.add_argument(
        "entity",
        nargs="?",
        help="as the log names it; of several keys also KEY=VALUE, for all entities that have it",
    )
    command.add_argument("--client", help="a client's id, in the place of an entity")
    command.add_argument(
        "--log",
        type=Path,
        default=Path(os.environ.get("SAMPLES_DIR", ".local/samples")),
        help="folder of the prediction log (SAMPLES_DIR)",
    )
    command.add_argument(
        "--key-file",
        type=Path,
        default=Path(os.environ.get("GATEWAY_STATE_DIR", ".local/gateway")) / LOG_KEY_FILE,
        help="key of the clients' hashes, unless GATEWAY_SAMPLE_KEY is set",
    )
    return parser


def _folder(options: argparse.Namespace) -> Path:
    root: Path = options.log
    folder = root.expanduser().absolute() / check_model_name(options.model)
    if not folder.is_dir():
        raise ValueError(
            f"there is no prediction log at {folder}: check the model's name and SAMPLES_DIR; "
            "nothing was erased"
        )
    return folder


def _subject(options: argparse.Namespace) -> Subject:
    if (options.entity is None) is (options.client is None):
        raise ValueError("name either an entity or, by --client, a client; nothing was erased")
    if options.client is None:
        return entity_subject(options.entity)
    key = os.environ.get("GATEWAY_SAMPLE_KEY", "").strip()
    if not key:
        try:
            key = options.key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(
                f"the key of the clients' hashes cannot be read ({error}): set GATEWAY_SAMPLE_KEY "
                "or --key-file to that of the gateways; nothing was erased"
            ) from error
        if not key:
            raise ValueError(
                f"{options.key_file} holds no key: set GATEWAY_SAMPLE_KEY or --key-file to that of "
                "the gateways; nothing was erased"
            )
    return client_subject(options.client, key)


def _report(erasure: Erasure, folder: Path) -> int:
    print(
        f"Erased from {folder}: {erasure.rows} predicted rows and {erasure.outcomes} outcomes, in "
        f"{len(erasure.files)} files. {_ELSEWHERE}"
    )
    for path, reason in erasure.unreadable.items():
        print(f"{path} cannot be read and was left as it is: {reason}", file=sys.stderr)
    return _WRONG if erasure.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
