"""`components check`: what it prints of model files, and of the columns of their sources."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import ANY

import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.__main__ import main
from platform_assets.components.loading import SHIPPED
from platform_assets.local_stack.__main__ import main as stack
from tests.support.model_files import MINIMAL, write


def test_check_prints_each_problem_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, MINIMAL.replace("0.6", "7"))
    write(tmp_path, MINIMAL, "fine")

    assert main(["check", str(tmp_path)]) == 1

    printed = capsys.readouterr().out
    assert f"{file}:12: gates.metric_floor: 7 is not a value of balanced_accuracy" in printed
    assert "1 good, 1 broken" in printed


def test_check_of_good_files_lists_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, MINIMAL)

    assert main(["check", str(tmp_path)]) == 0
    assert "patients: binary of readmitted, 4 features" in capsys.readouterr().out
    assert main(["check"]) == 0
    assert "seattle_weather" in capsys.readouterr().out


def test_make_check_gives_the_shipped_model_the_source_that_the_stack_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of pytest stay
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SOURCE_PATH", "elsewhere.csv")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    broken = write(tmp_path / "models", MINIMAL.replace("0.6", "7"))

    assert stack(["check"]) == 1

    printed = capsys.readouterr().out
    assert f"{broken}:12: gates.metric_floor" in printed
    assert "note" not in printed
    assert "6 good, 1 broken" in printed


def test_check_compares_the_columns_of_a_file_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, MINIMAL)
    data = file.with_name("patients.csv")

    def checked(text: str) -> tuple[int, str]:
        data.write_text(text)
        return main(["check", str(tmp_path)]), capsys.readouterr().out

    assert main(["check", str(tmp_path)]) == 0
    assert f"note: its columns were not looked at: the source file {data} does not exist" in (
        capsys.readouterr().out
    )
    names = "patient_id,age,weight,ward,smoker,readmitted,more"
    assert checked(f"{names}\n1,no row is read\n") == (0, ANY)
    status, printed = checked(names.replace("weight,ward", "mass"))
    assert status == 1
    assert f"{file}:3: source.file: the source file {data} lacks ward, weight" in printed
    assert "0 good, 1 broken" in printed
    assert checked(names.replace(",", ";"))[0] == 0
    assert checked(names.replace(",", "~"))[0] == 1
    assert checked("")[0] == 0, "what cannot be read may be written later"


@pytest.mark.parametrize(("lacking", "status"), [((), 0), (("age",), 1)])
def test_check_of_a_pattern_looks_at_its_first_file(
    tmp_path: Path, lacking: tuple[str, ...], status: int
) -> None:
    days = write(tmp_path, MINIMAL.replace("patients.csv", "days/*.parquet")).with_name("days")
    days.mkdir()
    names = {"patient_id", "age", "weight", "ward", "smoker", "readmitted"} - {*lacking}
    parquet.write_table(pa.table({name: [1] for name in names}), days / "1.parquet")
    (days / "2.parquet").write_text("rubbish")

    assert main(["check", str(tmp_path)]) == status
    (days / "1.parquet").write_text("rubbish")
    assert main(["check", str(tmp_path)]) == 0


def test_check_takes_the_file_itself_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, MINIMAL, "other")
    file = write(tmp_path, MINIMAL.replace("0.6", "7"))

    assert main(["check", str(file)]) == 1

    printed = capsys.readouterr().out
    assert f"{file}:12: gates.metric_floor" in printed
    assert "0 good, 1 broken" in printed


def test_check_of_one_folder_knows_the_names_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, MINIMAL.replace("attributes:\n", "attributes:\n  model_name: cars\n"))

    assert main(["check", str(tmp_path / "patients")]) == 1
    assert f"is also the name of {SHIPPED / 'cars' / 'defs.yaml'}" in capsys.readouterr().out
