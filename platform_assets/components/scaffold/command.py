"""Create a model file from a table: read, infer, measure, write, check."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from platform_assets.components.loading import model_folders
from platform_assets.components.messages import explain
from platform_assets.components.scaffold import draft as parts
from platform_assets.components.scaffold.baseline import choose_split, find_floor
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.inference import infer
from platform_assets.components.scaffold.leaks import find_leaks
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError, TableProfile
from platform_assets.components.scaffold.table import profile_table
from platform_assets.components.scaffold.writing import require_available, write_model
from platform_assets.features.reading import read_source
from platform_assets.resources.source import ColumnsError, SourceError, SourceResource
from platform_assets.training.frame import source_rows
from platform_assets.training.rows import TrainingError

Say = Callable[[str], object]


def make_model(
    request: ModelRequest,
    folder: Path,
    name: str | None = None,
    say: Say = lambda _line: None,
    others: Sequence[Path] | None = None,
) -> ScaffoldResult:
    """Create `<folder>/<model>/defs.yaml` from a table.

    Args:
        request: the table, the target, and further user input.
        folder: the folder of models.
        name: name of the model's own folder; by default that of the model.
        say: receives a line of progress before each step.
        others: further folders of models, whose names are taken; None: `model_folders()`.

    Raises:
        ScaffoldError: says in one sentence why there is no file; nothing was written.
    """
    own = (folder / (name or request.model_name)).absolute()
    require_available(request.model_name, own, model_folders() if others is None else others)
    draft = draft_model(request, say)
    return ScaffoldResult(write_model(draft, request, own), draft)


def draft_model(request: ModelRequest, say: Say = lambda _line: None) -> Draft:
    """Infer a model from the table, with its floor; writes nothing.

    Raises:
        ScaffoldError: something cannot be inferred, or the chain would refuse the table.
    """
    try:
        say(f"reading {request.title}")
        draft = infer(_profile(request), request, datetime.now(UTC))
        return _measure(draft, request, say)
    except SourceError as error:
        raise ScaffoldError(f"{error}: {error.todo}") from error
    except ValidationError as error:  # a name that is not valid for a model
        [(_, message), *_] = explain(error)
        raise ScaffoldError(message) from error
    except TrainingError as error:
        raise ScaffoldError(f"{request.title} allows no model: {error}") from error


def _profile(request: ModelRequest) -> TableProfile:
    if not (request.path.exists() or glob.has_magic(request.table)):
        raise ScaffoldError(f"{request.table} does not exist")
    try:
        return profile_table(request)
    except ColumnsError as error:
        raise ScaffoldError(f"{error}: say which one, as SEPARATOR=';'") from error


def _measure(draft: Draft, request: ModelRequest, say: Say) -> Draft:
    """Validate the draft with the chain's own reader, then remove leaks and find a floor."""
    source = read_source(draft.spec, SourceResource())
    rows = source_rows(source.table, draft.spec)
    say(f"{len(rows):,} rows: trying each of {len(draft.spec.features):,} columns alone")
    leaks = find_leaks(rows, draft.spec, source.classes)
    if len(leaks) == len(draft.spec.features):
        raise ScaffoldError(
            f"{request.title} has nothing to learn {request.target} from but what tells it "
            f"alone: {', '.join(leaks)}"
        )
    draft = draft.drop_features(leaks)
    rows = source_rows(source.table, draft.spec)
    evaluation, why, training = choose_split(rows, draft.spec)
    draft = draft.revise({parts.EVALUATION: why}, evaluation=evaluation)
    say("cross-validating two simple models for the floor")
    try:
        floor, why = find_floor(training, draft.spec, source.classes)
    except ScaffoldError as error:
        note = f", without {', '.join(leaks)}, which alone tells it" if leaks else ""
        raise ScaffoldError(f"{error}{note}") from error
    gates = replace(draft.spec.gates, metric_floor=floor)
    return draft.revise({parts.FLOOR: why}, gates=gates)


@dataclass(frozen=True, slots=True)
class ScaffoldResult:
    """A new model file, and what to report about it."""

    file: Path
    draft: Draft

    def lines(self) -> Iterator[str]:
        """Yield the decisions, one line each."""
        spec, why = self.draft.spec, self.draft.reasons
        yield f"wrote {self.file}"
        yield f"  key       {spec.join_key.name}: {why[parts.KEY]}"
        if spec.event_time is not None:
            yield f"  time      {spec.event_time.name}: {why[parts.TIME]}"
        yield f"  target    {spec.target.name}, {spec.task.value}: {why[parts.TASK]}"
        yield f"  features  {len(spec.features):,}, and {len(self.draft.left_out):,} left out"
        floor = spec.gates.metric_floor
        yield f"  floor     {spec.evaluation.metric} {floor}: {why[parts.FLOOR]}"
