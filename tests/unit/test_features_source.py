"""Identity of the source, the sample source, and what importing the slice costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from platform_assets.features.sample_data import write_iris_source
from platform_assets.features.source import SourceError, source_fingerprint


def test_the_fingerprint_follows_content_and_not_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("1,2\n")
    second.write_text("1,2\n")
    os.utime(second, (0, 0))
    assert source_fingerprint(first) == source_fingerprint(second)
    second.write_text("1,3\n")
    assert source_fingerprint(first) != source_fingerprint(second)
    assert len(source_fingerprint(first)) == 64


def test_a_missing_source_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        source_fingerprint(tmp_path / "none")


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


def test_the_assets_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import platform_assets.features.assets, platform_assets.features.checks\n"
        "import platform_assets.training.assets, platform_assets.training.checks\n"
        "import platform_assets.features.sample_data\n"
        "heavy = {'feast', 'matplotlib', 'mlflow', 'numpy', 'pandas', 'pyarrow', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_fingerprint_needs_no_dagster() -> None:
    code = (
        "import sys, platform_assets.features.source\n"
        "print(sorted({'dagster', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
