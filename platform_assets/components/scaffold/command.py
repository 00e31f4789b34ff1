"""Make a model file from a table: read, infer, measure, write, check."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from platform_assets.components.diagnostics import ModelFileError
from platform_assets.components.loading import model_folders, read_models
from platform_assets.components.messages import explain
from platform_assets.components.model_file import read_model
from platform_assets.components.scaffold import draft as parts
from platform_assets.components.scaffold.baseline import choose_split, find_floor
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.inference import infer
from platform_assets.components.scaffold.leaks import find_leaks
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError, TableProfile
from platform_assets.components.scaffold.rendering import render
from platform_assets.components.scaffold.table import profile_table
from platform_assets.components.schema import FILE_NAMES
from platform_assets.features.reading import read_source
from platform_assets.resources.source import ColumnsError, SourceError, SourceResource
from platform_assets.training.frame import source_rows
from platform_assets.training.rows import TrainingError

Say = Callable[[str], object]


def _silent(_line: str) -> None:
    """Say nothing."""


def make_model(
    request: ModelRequest,
    folder: Path,
    name: str | None = None,
    say: Say = _silent,
    others: Sequence[Path] | None = None,
) -> Outcome:
    """Make `<folder>/<model>/defs.yaml` from a table.

    Args:
        request: the table, the target, and what else a person says.
        folder: of models.
        name: of the model's own folder; by default that of the model.
        say: gets a line of progress before each step.
        others: more folders of models, whose names are taken; None: of `model_folders()`.

    Raises:
        ScaffoldError: with one sentence that says why there is none; nothing was written.
    """
    own = (folder / (name or request.model_name)).absolute()
    refuse_taken(request.model_name, own, model_folders() if others is None else others)
    draft = draft_model(request, say)
    return Outcome(write_model(draft, request, own), draft)


def draft_model(request: ModelRequest, say: Say = _silent) -> Draft:
    """Return the model that the table suggests, with its floor; writes nothing.

    Raises:
        ScaffoldError: something cannot be inferred, or the chain would refuse the table.
    """
    try:
        say(f"reading {request.title}")
        draft = infer(_profiled(request), request, datetime.now(UTC))
        return _measured(draft, request, say)
    except SourceError as error:
        raise ScaffoldError(f"{error}: {error.todo}") from error
    except ValidationError as error:  # a name that no model can have
        [(_, message), *_] = explain(error)
        raise ScaffoldError(message) from error
    except TrainingError as error:
        raise ScaffoldError(f"{request.title} allows no model: {error}") from error


def _profiled(request: ModelRequest) -> TableProfile:
    try:
        return profile_table(request)
    except ColumnsError as error:
        raise ScaffoldError(f"{error}: say which one, as SEPARATOR=';'") from error
    except SourceError as error:  # its advice is for a model file that is there
        raise ScaffoldError(str(error)) from error


def _measured(draft: Draft, request: ModelRequest, say: Say) -> Draft:
    """Let the chain's own reader judge the draft, then leave leaks out and find a floor."""
    source = read_source(draft.spec(), SourceResource())
    rows = source_rows(source.table, draft.spec())
    say(f"{len(rows):,} rows: trying each of {len(draft.features):,} columns alone")
    leaks = find_leaks(rows, draft.spec(), source.classes)
    if len(leaks) == len(draft.features):
        raise ScaffoldError(
            f"{request.title} has nothing to learn {request.target} from but what tells it "
            f"alone: {', '.join(leaks)}"
        )
    draft = draft.without(leaks)
    rows = source_rows(source.table, draft.spec())
    evaluation, why, training = choose_split(rows, draft.spec())
    draft = replace(draft, evaluation=evaluation)
    say("cross-validating two simple models for the floor")
    try:
        baseline = find_floor(training, draft.spec(), source.classes)
    except ScaffoldError as error:
        note = f", without {', '.join(leaks)}, which alone tells it" if leaks else ""
        raise ScaffoldError(f"{error}{note}") from error
    draft = replace(draft, floor=baseline.floor)
    return draft.because(**{parts.EVALUATION: why, parts.FLOOR: baseline.why})


def write_model(draft: Draft, request: ModelRequest, folder: Path) -> Path:
    """Write the model file into `folder`, which the model file is to be in, and return its path.

    The folder comes into being with a file that passed the check, or not at all; one that is
    there already may hold anything but a model file.

    Raises:
        ScaffoldError: the file does not pass the check, or cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder) as staged:
            file = staged / FILE_NAMES[0]
            named = _path_from(folder, request.path)
            file.write_text(render(draft, request, named), encoding="utf-8")
            _check(file, draft)
            if folder.is_dir():
                file.rename(folder / file.name)
            else:
                staged.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ScaffoldError(f"{folder} cannot be written: {reason}; nothing was left") from error
    except ModelFileError as error:
        raise ScaffoldError(f"what was inferred is not valid: {error}; nothing was left") from error
    return folder / FILE_NAMES[0]


def _check(file: Path, draft: Draft) -> None:
    """Raise ScaffoldError unless the file reads as the model whose rows were validated."""
    read, expected = read_model(file), draft.spec()
    named = Path(str(read.source.file)).resolve()
    same = replace(read, source=expected.source, code_version=expected.code_version)
    if same != expected or named != Path(str(expected.source.file)).resolve():
        raise ScaffoldError("the file that was written says something else than was inferred")


def refuse_taken(model_name: str, folder: Path, others: Sequence[Path]) -> None:
    """Raise ScaffoldError where the folder has a model file, or another model has the name."""
    if any((folder / name).exists() for name in FILE_NAMES):
        raise ScaffoldError(
            f"{folder} has a model file, which stays as it is: give another name, or remove it"
        )
    siblings = [folder.parent] if folder.parent.is_dir() else []
    known = read_models([*siblings, *others]).specs
    for file, spec in known.items():
        if spec.model_name.casefold() == model_name.casefold():
            raise ScaffoldError(f"{file} is a model named {spec.model_name}: give another name")


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that no reader of models looks into, and that goes away."""
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _path_from(folder: Path, table: Path) -> str:
    """The table as the model file names it: relative where both are below one of these."""
    for base in (folder.parent, Path.cwd()):
        if table.is_relative_to(base.absolute()) and folder.is_relative_to(base.absolute()):
            return os.path.relpath(table, folder)
    return str(table)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model file that was written, and what a person wants to know of it."""

    file: Path
    draft: Draft

    def lines(self) -> Iterator[str]:
        """What was decided, a line each."""
        draft, why = self.draft, self.draft.reasons
        key = draft.join_key.name
        yield f"wrote {self.file}"
        yield f"  key       {key}: {why[parts.KEY]}"
        if draft.event_time is not None:
            yield f"  time      {draft.event_time.name}: {why[parts.TIME]}"
        yield f"  target    {draft.target.name}, {draft.task.value}: {why[parts.TASK]}"
        yield f"  features  {len(draft.features):,}, and {len(draft.left_out):,} left out"
        yield f"  floor     {draft.evaluation.metric} {draft.floor}: {why[parts.FLOOR]}"
