"""The competing estimators, by name or by a user's function."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, Final

from platform_assets.model_spec import CandidateSpec, ModelSpec, Scalar, Task
from platform_assets.training import boosting
from platform_assets.training.estimators import NamedEstimator, named_estimators
from platform_assets.training.own_code import MODELS_DIR, find_module, import_module
from platform_assets.training.preprocessing import (
    Texts,
    custom_pipeline,
    is_pipeline,
    pipeline,
    text_columns,
)
from platform_assets.training.rows import TrainingError
from platform_assets.training.search_spaces import space_of
from platform_assets.training.weights import is_weighted, takes_weights

MAX_CANDIDATES: Final = 64
"""Maximum number of grid points over all candidates of a model."""
_SHORT: Final = Repr()
_SHORT.maxother = 200
"""Abbreviates the value that a function returned."""
SEARCH: Final = "search"
"""Prefix of messages about the search."""


class CandidateError(TrainingError, ValueError):
    """An invalid candidate: the message names it and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One estimator with one choice of parameters; `name` is unique within the model."""

    name: str
    spec: CandidateSpec
    parameters: Mapping[str, Scalar]
    where: str
    """Its position in the model file, for messages."""


def expand(spec: ModelSpec) -> tuple[Candidate, ...]:
    """Return the candidates, one per grid point; CandidateError as `check_candidates`."""
    candidates = list(_expand_grids(spec))
    seen: dict[str, str] = {}
    for candidate in candidates:
        if candidate.name in seen:
            raise CandidateError(
                f"{candidate.where}: {candidate.name} is the same as {seen[candidate.name]}"
            )
        seen[candidate.name] = candidate.where
    return tuple(candidates)


def check_candidates(spec: ModelSpec) -> None:
    """Check parameters and sizes of grids, without data and without scikit-learn.

    Raises:
        CandidateError: a parameter or a function's module does not exist, a grid is too large, a
            candidate appears twice, or there is nothing to search for. The message begins with
            `candidates[i]` or `search`.
    """
    expand(spec)
    for number, candidate in enumerate(spec.candidates):
        if candidate.own_code is not None:
            _require_module(_where(number, candidate), candidate.own_code)
    if spec.search is not None:
        _check_search(spec.candidates)


def _check_search(candidates: Sequence[CandidateSpec]) -> None:
    if absent := missing_packages("optuna"):
        raise CandidateError(f"{SEARCH}: {absent}")
    if not any(map(space_of, candidates)):
        raise CandidateError(
            f"{SEARCH}: none of the candidates has parameters to search for: give one `ranges`, or "
            "remove its grid"
        )


def _where(number: int, candidate: CandidateSpec) -> str:
    return f"candidates[{number}] ({candidate.name})"


def _expand_grids(spec: ModelSpec) -> Iterator[Candidate]:
    total = 0
    for number, candidate in enumerate(spec.candidates):
        where = _where(number, candidate)
        _check(where, candidate, spec.task)
        points = 1
        for values in candidate.grid.values():
            points *= len(values)
        total += points
        if total > MAX_CANDIDATES:
            raise CandidateError(
                f"{where}: with its {points} grid points there are {total} candidates; at most "
                f"{MAX_CANDIDATES} are tried"
            )
        for values in itertools.product(*candidate.grid.values()):
            chosen = dict(zip(candidate.grid, values, strict=True))
            parts = [candidate.name, *(f"{key}={value}" for key, value in chosen.items())]
            yield Candidate(" ".join(parts), candidate, chosen, where)


def _check(where: str, candidate: CandidateSpec, task: Task) -> None:
    if candidate.estimator is None:  # the parameters of a user's function are not known yet
        return
    entry = named_estimators(task)[candidate.estimator]
    if absent := missing_packages(*entry.packages):
        raise CandidateError(f"{where}: {absent}")
    allowed = entry.parameters
    for parameter in (*candidate.grid, *candidate.ranges):
        if parameter not in allowed:
            raise CandidateError(
                f"{where}: no parameter {parameter}; choose from {', '.join(sorted(allowed))}"
            )


def _require_module(where: str, path: str) -> None:
    module = path.partition(":")[0]
    try:
        module_spec = find_module(module)
    # This imports the module's parent package: the user's code, which may raise anything.
    except (Exception, SystemExit) as exc:
        raise CandidateError(f"{where}: {module} cannot be imported: {exc!r}") from exc
    if module_spec is None:
        raise CandidateError(
            f"{where}: there is no module {module}; put it into a folder of {MODELS_DIR}, or "
            "install its package where the pipeline runs"
        )


def build(candidate: Candidate, spec: ModelSpec) -> Any:
    """Return the unfitted pipeline of a candidate: preprocessing and estimator.

    Raises:
        CandidateError: the function cannot be called, its result is not such an estimator, or
            does not know a parameter.
    """
    from platform_assets.training.calibration import with_calibration  # imports NumPy

    definition = candidate.spec
    if definition.estimator is not None:
        entry = named_estimators(spec.task)[definition.estimator]
        model = _build_named(candidate, entry, spec)
        return pipeline(
            spec.features,
            with_calibration(model, spec),
            spec,
            scale=entry.needs_scaling,
            texts=entry.texts,
            impute=entry.imputes,
        )
    model = _build_from_function(candidate, spec)
    if is_weighted(spec) and not takes_weights(model):
        raise CandidateError(
            f"{candidate.where}: {type(model).__name__} takes no weights (its `fit` has no "
            "`sample_weight`): choose another estimator, or remove `weight` and `class_weight`"
        )
    model = with_calibration(model, spec)
    if definition.pipeline is not None:
        return custom_pipeline(model)
    return pipeline(spec.features, model, spec, scale=False, texts=Texts.COLUMNS)


def _build_named(candidate: Candidate, entry: NamedEstimator, spec: ModelSpec) -> Any:
    make = _import_attribute(candidate.where, entry.path)
    try:
        return make(**{**entry.defaults, **_settings(entry, spec), **candidate.parameters})
    # Raised if a library is installed but cannot be loaded.
    except (ImportError, OSError) as exc:
        raise CandidateError(
            f"{candidate.where}: it cannot be loaded here: {exc}; it needs OpenMP, which is "
            "libgomp1 of Debian and libomp of Homebrew"
        ) from exc


def _settings(entry: NamedEstimator, spec: ModelSpec) -> dict[str, object]:
    """Return the parameters that only the platform sets, not a grid."""
    settings: dict[str, object] = {}
    if entry.takes_seed:
        settings["random_state"] = spec.evaluation.seed
    if entry.threaded:
        settings["n_jobs"] = spec.evaluation.threads
    if entry.categorical:
        settings["categories"] = text_columns(spec.features)
    return settings


def _build_from_function(candidate: Candidate, spec: ModelSpec) -> Any:
    where = candidate.where
    make = _import_attribute(where, candidate.spec.name)
    try:
        model = make()
    # The user's code may raise anything, or exit: the message names the candidate.
    except (Exception, SystemExit) as exc:
        raise CandidateError(f"{where}: the function failed: {exc!r}") from exc
    methods = ["fit", "predict", "get_params", "set_params"]
    methods += [] if spec.task is Task.REGRESSION else ["predict_proba"]
    absent = [name for name in methods if not callable(getattr(model, name, None))]
    if absent or inspect.isclass(model):
        raise CandidateError(
            f"{where}: the function returned {_SHORT.repr(model)}, which is not an unfitted "
            f"scikit-learn estimator with {', '.join(methods)}"
        )
    if candidate.spec.pipeline is not None and not is_pipeline(model):
        raise CandidateError(
            f"{where}: the function returned {_SHORT.repr(model)}, which is not a scikit-learn "
            "Pipeline; give an estimator alone as `function`"
        )
    try:
        unseeded = [
            name
            for name, value in model.get_params(deep=True).items()
            if name.rpartition("__")[2] == "random_state" and value is None
        ]
        model.set_params(**dict.fromkeys(unseeded, spec.evaluation.seed))
        return model.set_params(**candidate.parameters)
    # As above: these methods are the user's code, too.
    except Exception as exc:
        raise CandidateError(f"{where}: {exc}") from exc


def _import_attribute(where: str, path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    try:
        attribute = getattr(import_module(module), name)
    # Importing runs the user's code.
    except (Exception, SystemExit) as exc:
        raise CandidateError(f"{where}: {path} cannot be imported: {exc!r}") from exc
    if not callable(attribute):
        raise CandidateError(f"{where}: {path} is not a function")
    return attribute  # type: ignore[no-any-return] # callable, which is all that is known


def parameters(pipeline: Any) -> dict[str, str]:
    """Return the parameters worth displaying: scalars, by full name.

    They are those of the estimator, or of all steps of a user's pipeline.
    """
    from platform_assets.training.calibration import unwrap_calibration  # imports NumPy

    model = unwrap_calibration(pipeline.steps[-1][1])
    described = model if is_pipeline(model) else boosting.unwrap_learner(model)
    return {
        name: str(value)
        for name, value in described.get_params(deep=True).items()
        if isinstance(value, (bool, int, float, str))
    }


def missing_packages(*packages: str) -> str | None:
    """Return which of these packages must be installed; None if all are. Imports none."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return (
        f"{' and '.join(absent)} cannot be imported here: install the extra `boosting` "
        "(pip install 'readygate[boosting]')"
    )
