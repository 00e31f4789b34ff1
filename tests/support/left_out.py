"""Without root, leave out the tests that this machine cannot run, and say how many and why.

`make test` as root installs every program, so as root nothing is left out: a test whose program is
missing fails.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

_ROOT: Final = "root"
_PROGRAMS: Final = ("chromium", "haproxy", "prometheus", "redis-server")
"""Programs that tests start; each is named like its Debian package."""
_BY_FIXTURE: Final = {"browser": "chromium", "redis": "redis-server", "online": "redis-server"}
_COUNTS: Final = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(what): {_ROOT}, or one of {', '.join(_PROGRAMS)}")
    config.stash[_COUNTS] = Counter()


def pytest_report_header() -> str | None:
    missing = ", ".join(sorted(missing_here()))
    return f"without root, tests that need these are left out: {missing}" if missing else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = missing_here()
    needs = {item: sorted(needs_of(item) & missing) for item in items}
    left_out = [item for item in items if needs[item]]
    config.stash[_COUNTS] = Counter(needs[item][0] for item in left_out)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not needs[item]]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a worker of xdist
        session.config.workeroutput["left_out"] = dict(session.config.stash[_COUNTS].items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # Every worker collects the same.
    node.config.stash[_COUNTS] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts = config.stash[_COUNTS]
    if not counts:
        return
    packages = sorted(counts.keys() - {_ROOT})
    install = f" (sudo apt-get install {' '.join(packages)})" if packages else ""
    parts = [f"{count} need {what}" for what, count in sorted(counts.items())]
    terminalreporter.write_line(
        f"left out {counts.total()} tests without root: {', '.join(parts)}{install}", yellow=True
    )


def needs_of(item: pytest.Item) -> set[str]:
    """What a test needs: by its marks, its fixtures and its parameters."""
    found = {str(mark.args[0]) for mark in item.iter_markers("needs")}
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    found |= {_BY_FIXTURE[name] for name in fixtures if name in _BY_FIXTURE}
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params.values() if callspec is not None else ()
    texts = [one for one in parameters if isinstance(one, str)]
    return found | ({"redis-server"} if "redis" in texts else set())


def missing_here() -> set[str]:
    """What tests may need and this machine does not offer; as root always nothing."""
    if os.geteuid() == 0:
        return set()
    return {_ROOT, *(name for name in _PROGRAMS if shutil.which(name) is None)}
