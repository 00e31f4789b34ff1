"""The real browser, headless, for tests that look at pages as a person does."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def run_browser() -> Iterator[Browser]:
    """Run Chromium; no event loop may run in this thread meanwhile, nor be started."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=_ARGUMENTS
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_window(browser: Browser, **options: Any) -> Iterator[Page]:
    """A window without any history, of the `options` of Playwright's `new_context`.

    Pages keep asking: a handler of `page.route` that still waits for its answer when the window
    closes would fail the test.
    """
    with browser.new_context(**options) as context:
        page = context.new_page()
        try:
            yield page
        finally:
            page.unroute_all(behavior="wait")


def barriers(page: Page) -> list[str]:
    """What axe finds serious or critical on a page, each with the first element concerned."""
    from axe_playwright_python.sync_playwright import Axe  # half a megabyte of script

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]
