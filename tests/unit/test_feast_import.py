"""Feast is imported without the checks that make its import slow."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
from serving_gateway.contract import import_feast
import_feast()

import inspect
import feast, typeguard
print("@typechecked" in inspect.getsource(feast.FeatureView))
print("TypeCheckMemo" in feast.FeatureView.__init__.__code__.co_names)
print(typeguard.typechecked.__module__)
"""


@pytest.mark.slow
def test_feast_is_imported_without_the_checks_that_it_asks_for() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    asks, is_checked, module = done.stdout.split()
    assert asks == "True", "a plain import would add them"
    assert is_checked == "False"
    assert module == "typeguard", "others get the real one"
