"""`python -m tests.support.screenshots`: take the pictures that the front page shows, anew.

Of the stack that runs (`make up`, with the same variables), after a chain or two, so that there is
a history to show.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, expect

from platform_assets.local_stack.settings import stack_settings
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.browser import run_browser
from tests.support.load import SteadyClient
from tests.support.servers import ROOT

_COLOURS: Final = 128
_TRAFFIC_MS: Final = 75_000
"""How long the gateway answers before its picture is taken: a minute of charts is full by then."""
_LAYOUT_MS: Final = 60_000


def main() -> None:
    """Take both pictures."""
    settings = stack_settings(os.environ)
    with run_browser() as browser:
        _gateway(browser, settings.gateway_url, ROOT / "serving_gateway" / "page.png")
        _lineage(browser, settings.dagster_url, ROOT / "platform_assets" / "lineage.png")


def _gateway(browser: Browser, url: str, path: Path) -> None:
    with browser.new_context(viewport={"width": 1200, "height": 1150}) as context:
        page = context.new_page()
        page.goto(url)
        with SteadyClient(url).asking():
            page.wait_for_timeout(_TRAFFIC_MS)
            expect(page.locator(".verdict")).to_have_text("✓ In production")
            _keep(page.screenshot(full_page=True), path)


def _lineage(browser: Browser, url: str, path: Path) -> None:
    with browser.new_context(viewport={"width": 1000, "height": 1750}) as context:
        context.add_init_script("localStorage.setItem('asset-graph-direction', '\"vertical\"')")
        page = context.new_page()
        page.goto(f"{url}/locations/platform/asset-groups/{DEFAULT_MODEL}/lineage")
        expect(page.get_by_text("serving_proof").first).to_be_visible(timeout=_LAYOUT_MS)
        _keep(page.screenshot(), path)


def _keep(picture: bytes, path: Path) -> None:
    """Write a PNG of few colours, which pages of plain colours do not miss."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
