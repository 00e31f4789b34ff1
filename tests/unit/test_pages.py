"""The pages of the repository: what they link to exists, and their commands are run by tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support import pages
from tests.support.servers import ROOT

PAGES = pages.tracked_files("*.md")
RUN_BY = {
    "README.md": "tests/e2e/test_laptop.py",
    "feature_repo/README.md": "tests/e2e/test_laptop.py",
    "platform_assets/README.md": "tests/e2e/test_laptop.py",
    "platform_assets/components/README.md": "tests/e2e/test_laptop.py",
    "serving_gateway/README.md": "tests/integration/test_gateway_readme.py",
}
"""The pages with commands, and the test that runs them."""
SOURCES = [f"/{name}" for name in pages.tracked_files("*.py")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TARGET = re.compile(r"^\.PHONY: (.+)$", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The fragments that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", pages.prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    page = ROOT / name
    missing = []
    for link in _LINK.findall(pages.prose(page)):
        if re.match(r"[a-z]+:", link):
            continue  # another site's
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_modules_on_a_page_exist(name: str) -> None:
    """A page names a module by the end of its path."""
    modules = re.findall(r"`([\w/]+\.py)`", pages.prose(ROOT / name))
    assert [one for one in modules if not any(file.endswith(f"/{one}") for file in SOURCES)] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_what_it_is(name: str) -> None:
    unnamed = [str(one) for one in pages.blocks(name) if not one.language]
    assert unnamed == [], "commands are `sh`, other text is `text`"


@pytest.mark.parametrize("name", [name for name in PAGES if pages.commands(name)])
def test_commands_of_a_page_are_run_by_a_test(name: str) -> None:
    runner = ROOT / RUN_BY[name]
    assert f'"{name}"' in runner.read_text("utf-8"), f"{runner} does not run {name}"


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_on_a_page_exist(name: str) -> None:
    targets = set(" ".join(_TARGET.findall((ROOT / "Makefile").read_text("utf-8"))).split())
    text = (ROOT / name).read_text("utf-8")
    mentioned = re.findall(r"`make ([a-z0-9-]+)", text) + re.findall(
        r"^make ([a-z0-9-]+)", text, re.M
    )
    assert set(mentioned) <= targets


@pytest.mark.parametrize(
    "block",
    [one for name in PAGES for one in pages.blocks(name, "yaml", "json")],
    ids=str,
)
def test_examples_on_pages_can_be_read(block: pages.Block) -> None:
    assert yaml.safe_load(block.text)


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 8_000
