"""Servers that many tests share; tests that break a server run their own."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Page

from platform_assets.intervals import RETRY_SECONDS
from serving_gateway.contract import DEFAULT_MODEL
from tests.faults.scale import FORM
from tests.support.browser import open_window, run_browser
from tests.support.descriptors import check_none_leaked, open_descriptors
from tests.support.distribution import FileScheduling, put_longest_first
from tests.support.full_platform import Platform, run_platform
from tests.support.gateway_harness import RunningGateway, run_routed_gateway
from tests.support.migrations import read_migrations_once
from tests.support.onnx_models import telltale, write_entry
from tests.support.run_sharing import WORKER, is_first, share_mlflow
from tests.support.servers import (
    OwnMlflow,
    RunningMlflow,
    RunningRedis,
    RunningTriton,
    run_mlflow,
    run_mlflow_link,
    run_redis,
    run_triton,
)

pytest_plugins = ["tests.support.left_out"]
# Three minutes of a stack of its own; other tests take a version through each of its parts.
collect_ignore = [] if os.environ.get(FORM) == "long" else ["e2e/test_release_demo.py"]
# What a person has set for a platform of their own is not for those of the tests, and what a test
# asks is on this machine.
_OWN = ("GATEWAY_", "MLFLOW_", "DAGSTER_", "TRITON_CONTROL", "LEDGER_", "SAMPLES_", "NOTIFY_")
for _name in [name for name in os.environ if name.startswith(_OWN)]:
    del os.environ[_name]
for _name in ("STATE_DIR", "MODELS_DIR", "MODEL"):
    os.environ.pop(_name, None)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# The same examples each time: a new one may fail on its own, in a change that has no part in it.
settings.register_profile("same", derandomize=True)
if os.environ.get(FORM) != "long":
    settings.load_profile("same")
# A server that a test has stopped does not come back while a step waits.
os.environ[RETRY_SECONDS] = "0"


def pytest_configure(config: pytest.Config) -> None:
    # A shell ignores it in the background, and Dagster then ignores SIGTERM as well, as would
    # everything that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "slow: trains, converts, waits or repeats an experiment for about a second; see test-fast",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # What is imported and collected stays: no garbage to look for, now or later.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    put_longest_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _garbage_is_collected() -> Iterator[None]:
    """A gateway freezes what it has loaded, once in its life: here also garbage of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.freeze", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _migrations_are_read_once() -> Iterator[None]:
    """Dagster reads all its migrations for each new database: most of what an instance costs."""
    with read_migrations_once():
        yield


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Each file closes what it opens: a worker runs hundreds of files."""
    before = len(open_descriptors())
    yield
    check_none_leaked(before)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty Triton model repository of the test's own."""
    path = tmp_path / "repository"
    path.mkdir()
    return path


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RunningRedis]:
    """A Redis of the test's own: it may be stopped, killed and filled with anything."""
    with run_redis(tmp_path / "redis") as running:
        yield running


@pytest.fixture(scope="session")
def shared_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """A Triton that serves versions 1 and 2 of the default model; leave it as you found it."""
    home = tmp_path_factory.mktemp("triton")
    write_entry(home / "repository", DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with run_triton(home / "repository", home) as triton:
        yield triton


@pytest.fixture(scope="session")
def shared_mlflow(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> RunningMlflow:
    """An MLflow server of the whole run; use names of your own, the platform has the default one.

    It costs more to start than most files that use it: the processes of the run share it.
    """
    stack = contextlib.ExitStack()
    # Not when the fixture ends: the process that started it waits for those that still use it,
    # for longer than a test may take.
    request.config.add_cleanup(stack.close)
    own = tmp_path_factory.mktemp("mlflow")
    if WORKER not in os.environ:
        return stack.enter_context(run_mlflow(own))
    return stack.enter_context(share_mlflow(tmp_path_factory.getbasetemp().parent, own))


@pytest.fixture
def mlflow_link(tmp_path: Path, shared_mlflow: RunningMlflow) -> Iterator[OwnMlflow]:
    """The shared MLflow server by a way of the test's own, which may be stopped and killed."""
    with run_mlflow_link(tmp_path / "link", shared_mlflow) as running:
        yield running


@pytest.fixture(scope="session")
def shared_platform(
    tmp_path_factory: pytest.TempPathFactory, shared_mlflow: RunningMlflow
) -> Iterator[Platform]:
    """Every server of the platform; leave all of them running."""
    home = tmp_path_factory.mktemp("platform")
    with contextlib.ExitStack() as stack:
        mlflow: RunningMlflow = shared_mlflow
        if WORKER in os.environ and not is_first(tmp_path_factory.getbasetemp().parent, "platform"):
            # Another process of this run has the default model in the shared one.
            mlflow = stack.enter_context(run_mlflow(home / "mlflow"))
        yield stack.enter_context(run_platform(home, mlflow))


@pytest.fixture
def platform(shared_platform: Platform) -> Platform:
    """A platform with a version in production."""
    if shared_platform.production() is None:
        shared_platform.promote()
    return shared_platform


@pytest.fixture(scope="module")
def triton_url(shared_triton: RunningTriton) -> str:
    """The Triton of the gateways below; a module overrides it to put another there."""
    return shared_triton.http_url


@pytest.fixture(scope="module")
def gateway_env() -> dict[str, str]:
    """Settings of the gateways below; a module overrides it."""
    return {}


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    """Versions that the gateways below route to, by variant; a module overrides it."""
    return {"A": 1}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    triton_url: str,
    gateway_env: dict[str, str],
    routes: dict[str, int],
) -> Iterator[RunningGateway]:
    """A gateway that the tests of a module share."""
    home = tmp_path_factory.mktemp("gateway")
    with run_routed_gateway(home, triton_url, gateway_env, routes) as running:
        yield running


@pytest.fixture
def fresh_gateway(
    tmp_path: Path, triton_url: str, gateway_env: dict[str, str], routes: dict[str, int]
) -> Iterator[RunningGateway]:
    """A gateway of the test's own, without any history but its routes."""
    with run_routed_gateway(tmp_path, triton_url, gateway_env, routes) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser; not for modules with async tests, whose loops it would be in the way of."""
    with run_browser() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window without any history."""
    with open_window(browser, viewport={"width": 1600, "height": 1000}) as page:
        page.set_default_timeout(60_000)
        yield page
