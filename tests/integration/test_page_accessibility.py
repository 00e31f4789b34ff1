"""Every page in light and dark, on desks, phones and paper: axe finds no barrier, and all fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from platform_assets.monitoring.page import drift_page
from platform_assets.monitoring.pictures import drift_picture
from platform_assets.monitoring.records import ColumnDrift, DriftReport, Novelty
from platform_assets.resources import plots
from tests.support.browser import barriers, open_window
from tests.support.evidence import evidence_page
from tests.support.gateway_harness import Client, RunningGateway, run_gateway
from tests.support.passports import example_passport_page
from tests.support.servers import RunningTriton

PAPER: ViewportSize = {"width": 688, "height": 1000}
"""A4 within its margins."""
COUNTRY = ColumnDrift(
    name="country",
    kind="feature",
    psi=0.4,
    limit=0.2,
    chance=0.01,
    missing_reference=0.0,
    missing_current=0.1,
    novelty=Novelty(0.3, 0.05, 0.2, 0.05, ("a word that has never been seen before",)),
    bins=("de", "fr", "(other)"),
    reference=(0.5, 0.5, 0.0),
    current=(0.4, 0.3, 0.3),
)


def drift_report() -> str:
    report = DriftReport(
        "visitors", 7, 1000, 900, 200, 3000, 0.2, (COUNTRY,), ("visits: no sample holds it",)
    )
    picture = plots.data_url(drift_picture(report))
    return drift_page(report, {"samples": 1000, "run_id": "a" * 32}, picture)


@pytest.fixture(params=[("light", 1400), ("dark", 1400), ("light", 375), ("dark", 375)], ids=str)
def window(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A window of a colour scheme and width."""
    scheme: Literal["light", "dark"]
    scheme, width = request.param
    with open_window(
        browser, viewport={"width": width, "height": 900}, color_scheme=scheme
    ) as page:
        yield page


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_triton: RunningTriton
) -> Iterator[RunningGateway]:
    """A gateway whose page shows all that it can."""
    env = {"GATEWAY_MLFLOW_UI_URL": "http://mlflow.example.com"}
    with run_gateway(tmp_path_factory.mktemp("looks"), shared_triton.http_url, env=env) as running:
        for version in (1, 2) * 4:
            running.routed(version)
        running.routed(1, alias="B")
        running.traffic("mirror", 100)
        yield running


def assert_fits(page: Page) -> None:
    assert barriers(page) == []
    assert overflow(page) <= 0, "it scrolls sideways"
    window = page.viewport_size
    assert window is not None
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)
    assert overflow(page) <= 0, "it is cut off on paper"
    page.emulate_media(media="screen")
    page.set_viewport_size(window)


def overflow(page: Page) -> int:
    """Pixels by which a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_gateway_page_has_no_barriers(window: Page, gateway: RunningGateway) -> None:
    window.goto(gateway.url)
    with Client(gateway.url, pause_s=0.02):
        expect(window.locator("#shadow")).to_be_visible()
        window.locator("#older summary").click()
        assert_fits(window)
        window.get_by_role("button", name="Roll variant A back").click()
        expect(window.get_by_role("dialog")).to_be_visible()
        assert_fits(window)


def test_names_of_many_models_fit(window: Page, gateway: RunningGateway) -> None:
    names = [*(f"model_{number}" for number in range(40)), "m" * 63]

    def with_models(route: Route) -> None:
        status = route.fetch().json()
        route.fulfill(json={**status, "models": [*status["models"], *names]})

    window.route("**/models", with_models)
    window.goto(gateway.url)
    expect(window.get_by_role("link", name=names[-1])).to_be_visible()
    assert_fits(window)


@pytest.mark.parametrize(
    "render",
    [evidence_page, drift_report, example_passport_page],
    ids=["proof", "drift", "passport"],
)
def test_written_page_has_no_barriers(
    window: Page, render: Callable[[], str], tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(render())
    window.goto(file.as_uri())
    for summary in window.locator("summary").all():
        summary.press("Enter")
    assert window.locator("details:not([open])").count() == 0
    assert_fits(window)
