"""`make model`: whole tables become files that pass the check, or one sentence says why not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from platform_assets.components.__main__ import main
from platform_assets.components.model_file import read_model
from platform_assets.components.scaffold import baseline, inference, writing
from platform_assets.components.scaffold.baseline import Score
from platform_assets.components.scaffold.command import draft_model, make_model
from platform_assets.components.scaffold.draft import Draft
from platform_assets.components.scaffold.new import default_folder
from platform_assets.components.scaffold.profile import ModelRequest, ScaffoldError
from platform_assets.components.scaffold.rendering import render
from platform_assets.components.scaffold.writing import write_model
from platform_assets.features.reading import read_source
from platform_assets.model_spec import CandidateSpec, ModelSpec, Split, Task
from platform_assets.resources.source import SourceResource
from tests.support import tables
from tests.support.model_files import MINIMAL, write
from tests.support.servers import ROOT
from tests.support.tables import Make

pytestmark = pytest.mark.slow


def made(folder: Path, table: Make) -> ModelSpec:
    path, target = table(folder)
    return read_model(make_model(ModelRequest(str(path), target), folder / "models").file)


# Hundreds of columns take long here; the chain is what they are for.
WIDE = functools.partial(tables.sensors, columns=101)


@pytest.mark.parametrize(
    ("table", "task", "features", "left_out", "floor"),
    [
        (tables.patients, Task.BINARY, 5, {"hospital", "notes"}, (0.55, 0.8)),
        (tables.orders, Task.REGRESSION, 3, {"delivered"}, (0.3, 0.8)),
        (tables.loans, Task.BINARY, 3, {'""', "loan_no", "recovered"}, (0.55, 0.75)),
        (WIDE, Task.MULTICLASS, 101, set(), (0.34, 0.7)),
        (tables.korean, Task.REGRESSION, 4, set(), (0.3, 0.8)),
        (tables.products, Task.MULTICLASS, 6, {"empty"}, (0.3, 0.7)),
        (tables.employment, Task.REGRESSION, 22, set(), (0.2, 0.9)),
        (tables.stocks, Task.REGRESSION, 1, {"date"}, (0.2, 0.8)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_table_becomes_a_model_file_that_the_chain_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: Make,
    task: Task,
    features: int,
    left_out: set[str],
    floor: tuple[float, float],
) -> None:
    monkeypatch.setattr(inference, "_WIDE", 100)

    spec = made(tmp_path, table)

    assert spec.task is task
    assert len(spec.features) == features
    assert (CandidateSpec("hist_gradient_boosting") in spec.candidates) is (table is not WIDE)
    assert floor[0] <= spec.gates.metric_floor <= floor[1]
    (file,) = (tmp_path / "models").glob("*/defs.yaml")
    lines = file.read_text(encoding="utf-8").splitlines()
    given = {line.split(":")[0].strip(" #") for line in lines if line.startswith("    # ")}
    assert given - {"Left out"} == left_out
    fields = lines[lines.index("  features:") + 1 :]
    assert all("# " in line for line in fields if not line.endswith(":") and "split:" not in line)
    assert read_source(spec, SourceResource()).table.num_rows > 0
    assert main(["check", str(tmp_path / "models")]) == 0


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (tables.few_rows, "few.csv has 3 rows with a y, and a model needs 30 at least"),
        (tables.riots, "no simple model predicts gender better than one constant answer does"),
    ],
)
def test_table_without_a_model_leaves_nothing_behind(
    tmp_path: Path, table: Make, sentence: str
) -> None:
    path, target = table(tmp_path)

    with pytest.raises(ScaffoldError, match=sentence):
        make_model(ModelRequest(str(path), target), tmp_path / "models")

    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("mean", "is_close"), [(0.53, True), (0.8, False)])
def test_floor_that_chance_may_miss_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean: float, is_close: bool
) -> None:
    scores = iter([Score(0.5, 0, 5), Score(mean, 0.02, 5), Score(0.5, 0.02, 5)])
    monkeypatch.setattr(baseline, "_score", lambda *_: next(scores))

    made(tmp_path, tables.patients)

    (file,) = (tmp_path / "models").glob("*/defs.yaml")
    said = "so close that the held-out rows may not show it" in file.read_text("utf-8")
    assert said is is_close


def test_times_split_the_evaluation(tmp_path: Path) -> None:
    assert made(tmp_path, tables.orders).evaluation.split is Split.TIME


def test_leak_that_is_all_there_is_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"{number},{number % 2},{number % 2}\n" for number in range(200))
    (tmp_path / "t.csv").write_text("id,copy,y\n" + rows)

    with pytest.raises(ScaffoldError, match="to learn y from but what tells it alone: copy"):
        make_model(ModelRequest(str(tmp_path / "t.csv"), "y"), tmp_path / "models")


def test_leak_is_named_where_nothing_else_predicts(tmp_path: Path) -> None:
    rows = "".join(
        f"{number},{number * 7919 % 101},{number % 2},{number % 2}\n" for number in range(200)
    )
    (tmp_path / "t.csv").write_text("id,noise,copy,y\n" + rows)

    with pytest.raises(ScaffoldError, match=r"constant.*, without .*copy.*, which alone tells it"):
        make_model(ModelRequest(str(tmp_path / "t.csv"), "y"), tmp_path / "models")


@pytest.fixture(scope="module")
def drafted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Draft, ModelRequest]:
    path, target = tables.patients(tmp_path_factory.mktemp("tables"))
    request = ModelRequest(str(path), target)
    return draft_model(request), request


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("models/patients", "../../patients.csv"),
        (".", "patients.csv"),
        ("link/patients", "../../patients.csv"),
        ("../elsewhere/patients", None),
    ],
)
def test_file_names_its_table_relative_where_both_move_together(
    monkeypatch: pytest.MonkeyPatch,
    drafted: tuple[Draft, ModelRequest],
    place: str,
    named: str | None,
) -> None:
    draft, request = drafted
    home = request.path.parent
    monkeypatch.chdir(home)
    if place.startswith("link"):
        (home / "real").mkdir()
        (home / "link").symlink_to(home / "real")

    file = write_model(draft, request, Path(os.path.normpath(home / place)))

    assert f'{{file: "{named or request.path}"}}' in file.read_text()
    assert Path(str(read_model(file).source.file)).resolve() == request.path.resolve()


def test_columns_may_be_called_as_parts_of_a_model_file(tmp_path: Path) -> None:
    parts = ("task", "target", "source", "features", "metric_floor", "true", "null", "#")
    frame = pd.DataFrame(np.random.default_rng(8).normal(size=(200, len(parts))), columns=parts)
    frame.assign(y=frame.sum(axis=1)).to_csv(tmp_path / "t.csv", index=False)

    outcome = make_model(ModelRequest(str(tmp_path / "t.csv"), "y"), tmp_path / "models")

    names = [one.name for one in read_model(outcome.file).features]
    assert names == [*parts[:-1], "column_8"]


def test_header_that_cannot_be_printed_is_written_so_that_it_reads_the_same(
    tmp_path: Path,
) -> None:
    headers = ["a\x85b", "c\ufffed", "e\u2028f"]
    frame = pd.DataFrame(np.random.default_rng(8).normal(size=(200, 3)), columns=headers)
    frame.assign(y=frame.sum(axis=1)).to_csv(tmp_path / "t.csv", index=False)

    outcome = make_model(ModelRequest(str(tmp_path / "t.csv"), "y"), tmp_path / "models")

    assert [one.source_column for one in read_model(outcome.file).features] == headers


def test_model_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path, target = tables.patients(tmp_path)
    file = write(tmp_path / "models", MINIMAL)

    with pytest.raises(ScaffoldError, match="has a model file, which stays as it is"):
        make_model(ModelRequest(str(path), target), tmp_path / "models")

    assert file.read_text() == MINIMAL


def test_model_file_that_comes_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    path, target = tables.patients(tmp_path)
    folder = tmp_path / "models"
    (folder / "patients").mkdir(parents=True)

    def write_one_too(_line: str) -> None:
        (folder / "patients" / "defs.yml").write_text("theirs")

    with pytest.raises(ScaffoldError, match="has a model file, which stays as it is"):
        make_model(ModelRequest(str(path), target), folder, say=write_one_too)

    assert [one.name for one in (folder / "patients").iterdir()] == ["defs.yml"]


def test_name_of_a_feature_table_is_refused(tmp_path: Path) -> None:
    path, target = tables.patients(tmp_path)
    sentence = "is a feature table named fraud_customers: give another name"

    with pytest.raises(ScaffoldError, match=sentence):
        make_model(ModelRequest(str(path), target, name="Fraud_Customers"), tmp_path / "models")


def test_name_of_another_model_is_refused(tmp_path: Path) -> None:
    path, target = tables.patients(tmp_path)

    with pytest.raises(ScaffoldError, match="is a model named cars: give another name"):
        make_model(ModelRequest(str(path), target, name="Cars"), tmp_path / "models")


def test_name_that_no_model_can_have_is_refused(tmp_path: Path) -> None:
    path, target = tables.patients(tmp_path)

    with pytest.raises(ScaffoldError, match="use an ASCII letter"):
        make_model(ModelRequest(str(path), target, name="no name"), tmp_path / "models")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("TabularModel", "Other", "what was inferred is not valid"),
        ("age: integer", "age: number", "says something else than was inferred"),
    ],
)
def test_file_that_fails_its_check_is_not_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drafted: tuple[Draft, ModelRequest],
    old: str,
    new: str,
    sentence: str,
) -> None:
    monkeypatch.setattr(writing, "render", lambda *given: render(*given).replace(old, new))

    with pytest.raises(ScaffoldError, match=sentence):
        write_model(*drafted, tmp_path / "models" / "patients")

    assert list((tmp_path / "models").iterdir()) == []


def test_command_says_what_it_decided_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tables.patients(tmp_path)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))

    assert main(["new", str(path), "--target", target]) == 0

    said = capsys.readouterr().out
    assert f"wrote {tmp_path}/models/patients/defs.yaml" in said
    assert "patient: named like an identifier" in said
    assert said.endswith("next: make chain MODEL=patients\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["", "--target", "y"], "name the table and the column to predict"),
        ([str(ROOT / "LICENSE"), "--target", "y"], "use files that all end in .csv"),
        (["absent.csv", "--target", "y"], "absent.csv does not exist"),
    ],
)
def test_command_refuses_in_one_line(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", *arguments]) == 1

    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_table_in_another_encoding_is_to_be_saved_as_utf_8(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("나이,결과\n".encode("cp949") + b"1,2\n" * 40)

    with pytest.raises(ScaffoldError, match=r"is not UTF-8 text.*save it as UTF-8"):
        make_model(ModelRequest(str(tmp_path / "t.csv"), "결과"), tmp_path / "models")


def test_make_passes_its_command_line_on_and_not_the_environment(tmp_path: Path) -> None:
    path, target = tables.korean(tmp_path)
    stamp = f"{sys.prefix}/.run"

    done = subprocess.run(
        ["make", "-o", stamp, f"VENV={sys.prefix}", "model", f"CSV={path}", f"TARGET={target}",
         "KEY=준공 연도"],
        cwd=ROOT,
        env={**os.environ, "MODELS_DIR": str(tmp_path), "NAME": "the host's", "TASK": "none"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "준공 연도 of 아파트.csv cannot be the key: it repeats" in done.stderr


def test_models_go_where_the_platform_looks_for_them(tmp_path: Path) -> None:
    assert default_folder({}).name == "defs"
    assert default_folder({"MODELS_DIR": f"{tmp_path}:/other"}) == tmp_path
