"""`python -m tests.support.screenshots [URL]`: take the pictures that the pages show, anew.

Of the stack that runs (`make up`, with the same variables), after a chain or two, so that there is
a history to show. With the address that `make release-demo` prints, when the release of its second
version begins, only the picture of a release.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, FloatRect, ViewportSize, expect

from platform_assets.local_stack.settings import stack_settings
from serving_gateway.contract import DEFAULT_MODEL
from tests.support.browser import run_browser
from tests.support.load import SteadyClient
from tests.support.servers import ROOT

_COLOURS: Final = 128
_TRAFFIC_MS: Final = 75_000
"""How long the gateway answers before its picture is taken: a minute of charts is full by then."""
_RELEASE_MS: Final = 200_000
_SHARE_MS: Final = 12_000
"""Of a new share, until the charts show it."""
_LAYOUT_MS: Final = 60_000
_WHOLE_CHAIN: Final[ViewportSize] = {"width": 4600, "height": 700}
_EDGE: Final = 24
_GAP: Final = 20
"""Between two parts of the gateway's page, in pixels."""
_CHECKED: Final = ("features", "trained_model", "triton_serving_state", "gateway_reload")
_ALL_PASSED: Final = re.compile(r"(\d+) / \1 Passed")


def main(arguments: Sequence[str]) -> None:
    """Take the pictures."""
    settings = stack_settings(os.environ)
    with run_browser() as browser:
        if arguments:
            _release(browser, arguments[0], ROOT / "serving_gateway" / "release.png")
            return
        _gateway(browser, settings.gateway_url, ROOT / "serving_gateway" / "page.png")
        _lineage(browser, settings.dagster_url, ROOT / "platform_assets" / "lineage.png")


def _gateway(browser: Browser, url: str, path: Path) -> None:
    with browser.new_context(
        viewport={"width": 1200, "height": 1275}, reduced_motion="reduce"
    ) as context:
        page = context.new_page()
        page.goto(url)
        with SteadyClient(url).asking():
            page.wait_for_timeout(_TRAFFIC_MS)
            expect(page.locator(".verdict")).to_have_text("✓ In production")
            _keep(page.screenshot(), path)


def _release(browser: Browser, url: str, path: Path) -> None:
    """A release that is in its last split step, with the charts beside it."""
    with browser.new_context(
        viewport={"width": 1100, "height": 1275}, reduced_motion="reduce"
    ) as context:
        page = context.new_page()
        page.goto(url)
        now = page.locator("#release [aria-current=step]")
        expect(now).to_contain_text("split 50 %", timeout=_RELEASE_MS)
        page.wait_for_timeout(_SHARE_MS)
        parts = [
            page.locator(name).bounding_box()
            for name in ("#release", "section[aria-labelledby=charts-title]")
        ]
        boxes = [box for box in parts if box]
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    buffer = io.BytesIO()
    picture.crop(_around(boxes, _GAP // 2)).save(buffer, "PNG")
    _keep(buffer.getvalue(), path)


def _lineage(browser: Browser, url: str, path: Path) -> None:
    """The chain in two rows: one would be too wide to read."""
    with browser.new_context(viewport=_WHOLE_CHAIN) as context:
        page = context.new_page()
        page.goto(f"{url}/locations/platform/asset-groups/{DEFAULT_MODEL}/lineage")
        # Nodes stand where the layout put them at once; their checks come later.
        for asset in _CHECKED:
            node = page.locator("foreignObject", has=page.get_by_text(asset, exact=True))
            expect(node.filter(has_text=_ALL_PASSED)).to_be_visible(timeout=_LAYOUT_MS)
        nodes = [box for one in page.locator("foreignObject").all() if (box := one.bounding_box())]
        picture = Image.open(io.BytesIO(page.screenshot()))
    starts = sorted({box["x"] for box in nodes})
    rows = [
        [box for box in nodes if box["x"] in places]
        for places in (starts[: len(starts) // 2], starts[len(starts) // 2 :])
    ]
    parts = [picture.crop(_around(row)) for row in rows]
    size = max(part.width for part in parts), sum(part.height for part in parts)
    stacked = Image.new("RGB", size, "white")
    for number, part in enumerate(parts):
        stacked.paste(part, (0, number * parts[0].height))
    buffer = io.BytesIO()
    stacked.save(buffer, "PNG")
    _keep(buffer.getvalue(), path)


def _around(nodes: Sequence[FloatRect], edge: int = _EDGE) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a part of the picture that holds these nodes."""
    return (
        int(min(box["x"] for box in nodes) - edge),
        int(min(box["y"] for box in nodes) - edge),
        int(max(box["x"] + box["width"] for box in nodes) + edge),
        int(max(box["y"] + box["height"] for box in nodes) + edge),
    )


def _keep(picture: bytes, path: Path) -> None:
    """Write a PNG of few colours, which pages of plain colours do not miss."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
