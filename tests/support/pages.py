"""The commands on the repository's pages, and a shell that runs those of a page in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.servers import ROOT

RUNNABLE: Final = ("sh", "python")
_NOT_RUN: Final = re.compile(r"<!-- not run: (.+) -->")
_PRELUDE: Final = """\
set -euo pipefail
curl() { command curl --noproxy '*' --fail-with-body "$@" || { echo; return 1; }; }
"""
"""A call that is refused fails the page, as curl alone does not."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None
    """The reason that the page gives for leaving it out, in a comment above it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def tracked_files(pattern: str) -> list[str]:
    """Files of the repository, by their paths in it."""
    return subprocess.check_output(["git", "ls-files", pattern], cwd=ROOT, text=True).splitlines()


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """The fenced blocks of a page, from top to bottom; those of some languages alone."""
    return (one for one in _blocks(page) if not languages or one.language in languages)


def _blocks(page: str) -> Iterator[Block]:
    lines = (ROOT / page).read_text("utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        comment = _NOT_RUN.fullmatch(lines[opened - 1]) if opened else None
        yield Block(
            page=page,
            line=opened + 1,
            language=lines[opened].removeprefix("```"),
            text="\n".join(lines[opened + 1 : number]) + "\n",
            not_run=comment and comment[1],
        )
        opened = None


def commands(page: str) -> list[Block]:
    """The blocks of a page that a reader is meant to run and that can run in a test."""
    return [one for one in blocks(page, *RUNNABLE) if one.not_run is None]


def run_commands(
    page: str, replacements: Mapping[str, str], environ: Mapping[str, str] | None = None
) -> str:
    """Run the commands of a page in one shell, in order; returns what they print.

    `replacements` are texts of the page, such as addresses, and what stands for them in the test.
    Fails with the block at which the shell stopped.
    """
    script = _PRELUDE + "".join(_step(one) for one in commands(page))
    for text, replacement in replacements.items():
        assert text in script, f"{page} does not mention {text}"
        script = script.replace(text, replacement)
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, **(environ or {})},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout}"
    return done.stdout


def _step(block: Block) -> str:
    text = block.text
    if block.language == "python":
        text = f"{sys.executable} - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"
    return f"echo '== {block}'\n{text}"
