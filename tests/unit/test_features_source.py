"""Identity of the source, the sample source, and what importing the slice costs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from sklearn.datasets import load_iris

from platform_assets.features.sample_data import write_iris_source
from platform_assets.features.source import SourceError, source_fingerprint
from platform_assets.features.sources import files
from platform_assets.model_spec import Source, SqlQuery
from platform_assets.resources.source import SourceResource
from tests.support.models import IRIS

PLAIN = SourceResource()


def _fingerprint(path: Path | str) -> str:
    return source_fingerprint(dataclasses.replace(IRIS, source=Source(str(path))), PLAIN)


def test_the_fingerprint_follows_content_and_not_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("1,2\n")
    second.write_text("1,2\n")
    os.utime(second, (0, 0))
    assert _fingerprint(first) == _fingerprint(second) == hashlib.sha256(b"1,2\n").hexdigest()
    second.write_text("1,3\n")
    assert _fingerprint(first) != _fingerprint(second)


def test_the_fingerprint_of_several_files_knows_their_names_and_order(tmp_path: Path) -> None:
    names = {"one": ("a.csv", "b.csv"), "two": ("b.csv", "a.csv"), "three": ("a.csv", "c.csv")}
    for folder, ordered in names.items():
        (tmp_path / folder).mkdir()
        for content, name in enumerate(ordered):
            (tmp_path / folder / name).write_text(f"{content}\n")
    found = {folder: _fingerprint(tmp_path / folder) for folder in names}
    assert len(set(found.values())) == 3
    assert _fingerprint(tmp_path / "one" / "*.csv") == found["one"]
    (tmp_path / "one" / ".c.csv").write_text("half written")
    assert _fingerprint(tmp_path / "one") == found["one"]


def test_an_untouched_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2\n")
    read: list[Path] = []
    digest = files._digest

    def noted(one: Path) -> str:
        read.append(one)
        return digest(one)

    monkeypatch.setattr(files, "_digest", noted)
    # A file as young as this one may change without its time changing.
    assert _fingerprint(path) == _fingerprint(path)
    assert len(read) == 2
    monkeypatch.setattr(files, "_SETTLED_S", -1e9)
    assert _fingerprint(path) == _fingerprint(path)
    assert len(read) == 3
    path.write_text("1,3\n")
    assert _fingerprint(path) == hashlib.sha256(b"1,3\n").hexdigest()


def test_a_missing_source_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        _fingerprint(tmp_path / "none.csv")


def test_variables_come_from_the_resource_then_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("1,2\n")
    spec = dataclasses.replace(IRIS, source=Source("${SOURCE_WHERE}/${SOURCE_WHAT}.csv"))
    monkeypatch.setenv("SOURCE_WHERE", str(tmp_path))
    monkeypatch.setenv("SOURCE_WHAT", "nothing")
    source = SourceResource(variables={"SOURCE_WHAT": "a"})
    assert source_fingerprint(spec, source) == _fingerprint(tmp_path / "a.csv")
    (tmp_path / "a.csv").unlink()
    with pytest.raises(
        SourceError, match=r"\$\{SOURCE_WHERE\}/\$\{SOURCE_WHAT\}.csv does"
    ) as caught:
        source_fingerprint(spec, source)
    assert str(tmp_path) not in str(caught.value), "what variables stand for may be a secret"
    monkeypatch.delenv("SOURCE_WHERE")
    with pytest.raises(SourceError, match="names the variable SOURCE_WHERE, which is not set"):
        source_fingerprint(spec, source)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Source("data/${CONTROL_TOKEN}.csv"),
        lambda: Source(sql=SqlQuery("a://${CONTROL_TOKEN}/b", "x")),
    ],
)
def test_a_variable_that_is_not_one_of_sources_stays_hidden(
    make: Callable[[], Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROL_TOKEN", "s3cr3t-token-value")
    with pytest.raises(ValidationError, match="CONTROL_TOKEN: a source may only use") as caught:
        make()
    assert "s3cr3t" not in str(caught.value)


def test_the_sample_source_is_the_same_bytes_each_time_and_leaves_nothing_beside_it(
    tmp_path: Path,
) -> None:
    write_iris_source(tmp_path / "deep" / "iris.csv")
    write_iris_source(tmp_path / "again.csv")
    assert (tmp_path / "deep" / "iris.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["iris.csv"]


def test_the_sample_source_changes_over_time_for_each_flower(tmp_path: Path) -> None:
    write_iris_source(tmp_path / "iris.csv")
    lines = (tmp_path / "iris.csv").read_text().splitlines()
    of_first = [line.split(",")[2] for line in lines if line.startswith("1,")]
    assert of_first == ["4.79", "4.95", "5.10"]
    assert {line.split(",")[-1] for line in lines[1:]} == {"setosa", "versicolor", "virginica"}


def test_the_sample_source_ends_with_the_measurements_of_scikit_learn(tmp_path: Path) -> None:
    write_iris_source(tmp_path / "iris.csv")
    newest = [line.split(",")[2:] for line in (tmp_path / "iris.csv").read_text().split()[-150:]]
    iris = load_iris()
    assert [[float(value) for value in row[:-1]] for row in newest] == iris.data.tolist()
    assert [row[-1] for row in newest] == iris.target_names[iris.target].tolist()


@pytest.mark.slow
def test_the_fingerprint_of_a_file_and_the_assets_import_nothing_heavy() -> None:
    code = (
        "import sys, platform_assets.features.source\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow', 'sqlalchemy'} & set(sys.modules)))\n"
        "import platform_assets.features.assets, platform_assets.features.checks\n"
        "import platform_assets.features.sample_data\n"
        "heavy = {'feast', 'matplotlib', 'mlflow', 'numpy', 'pandas', 'pyarrow', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", ""]
