"""The gateway's page in a real browser: what a browser complains of, its tables and its time."""

from __future__ import annotations

import re

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

POLL_MS = 2_000
SOON_MS = 6_000
"""Two polls, and an answer that is slow."""
REPORTS = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


class Screen:
    """The page in a window that notes whatever a browser complains of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self._url = url
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._request)
        page.add_init_script(REPORTS)
        page.set_default_timeout(SOON_MS)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        self.asked.add(request.url)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self._url + path)
        return self.page

    def is_clean(self) -> None:
        """Nothing went wrong, and nobody but the gateway was asked for anything."""
        assert self.complaints == []
        assert self.page.evaluate("window.violations") == []
        assert "pwned" not in self.page.evaluate("Object.keys(window)")
        assert self.asked
        assert [url for url in self.asked if not url.startswith((self._url, "data:"))] == []


def cell(page: Page, table: str, label: str, column: int = 0) -> Locator:
    """A cell by the header of its row, and the number of its variant or replica."""
    header = page.get_by_role("rowheader", name=label, exact=True)
    return page.locator(f"#{table} tr").filter(has=header).locator("td").nth(column)


def stopped(page: Page) -> None:
    """Let the page's time stand still, one second after the epoch."""
    page.clock.install(time=0)
    page.clock.pause_at(1)


def next_poll(page: Page, seconds: str) -> None:
    """Let one interval go by; the poll after it is shown with these seconds on the clock."""
    page.clock.run_for(POLL_MS)
    expect(page.locator("#pulse")).to_have_text(re.compile(f"^live, .*{seconds}"))
