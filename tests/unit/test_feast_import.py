"""Feast is imported without the checks that make its import slow."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT = "from serving_gateway.contract import import_feast; import_feast()\n"
SAY = """
import feast, typeguard
code = feast.FeatureView.__init__.__code__
is_checked = "TypeCheckMemo" in code.co_names
print(is_checked, typeguard.typechecked.__module__)
"""


@pytest.mark.parametrize(("before", "is_checked"), [("", True), (IMPORT, False)])
def test_only_a_plain_import_has_feast_check_its_arguments(before: str, is_checked: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", before + SAY], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(is_checked), "typeguard"]
