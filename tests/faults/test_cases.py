"""The tables of cases and removals are true: what they name exists, and the page is fresh."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.faults.cases import CASES, Case
from tests.faults.guards import REMOVALS, REMOVED_BY_TESTS, Removal
from tests.faults.page import README, rewritten
from tests.support.servers import ROOT

LONG = [case for case in CASES if case.long]


@functools.cache
def names_in(path: str) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {one.name for one in tree.body if isinstance(one, kinds)}


@pytest.mark.parametrize("case", CASES, ids=[one.name for one in CASES])
def test_case_has_tests_that_exist(case: Case) -> None:
    assert case.tests
    for node in case.tests:
        path, _, name = node.partition("::")
        assert name in names_in(path), node


@pytest.mark.parametrize("case", LONG, ids=[one.name for one in LONG])
def test_long_form_names_what_exists(case: Case) -> None:
    module, *arguments = case.long
    if module == "pytest":
        [node] = [one for one in arguments if one.startswith("tests/")]
        path, _, name = node.partition("::")
        assert not name or name in names_in(path)
        assert case.figures is not None
        reported = re.compile(rf'report\(\s*"{case.figures}"')
        assert reported.search((ROOT / path).read_text(encoding="utf-8"))
    else:
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()


@pytest.mark.parametrize("removal", REMOVALS, ids=[one.test for one in REMOVALS])
def test_removal_names_a_guard_that_is_there(removal: Removal) -> None:
    assert removal.case in {case.name for case in CASES}
    assert (ROOT / removal.file).read_text(encoding="utf-8").count(removal.guard) == 1
    path, _, name = removal.test.partition("::")
    assert name in names_in(path)


def test_each_case_is_seen_to_fail_without_a_guard() -> None:
    by_tests = REMOVED_BY_TESTS.keys()
    assert {removal.case for removal in REMOVALS} | by_tests == {case.name for case in CASES}
    for node in REMOVED_BY_TESTS.values():
        path, _, name = node.partition("::")
        assert name in names_in(path), node


def test_names_are_unique_and_page_is_fresh() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    page = README.read_text(encoding="utf-8")
    assert rewritten(page) == page, "run python -m tests.faults --page"
