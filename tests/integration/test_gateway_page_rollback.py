"""Going back in one click on the gateway's page, while clients are answered."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.integration.gateway_harness import run_gateway
from tests.load import SteadyClient
from tests.servers import RunningTriton, wait_until

TOKEN = "open-sesame-0123456789"
SOON_S = 2.0


def test_production_goes_back_within_two_seconds_of_the_click(
    page: Page, shared_triton: RunningTriton, tmp_path: Path
) -> None:
    env = {"GATEWAY_CONTROL_TOKEN": TOKEN}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.client.headers["authorization"] = f"Bearer {TOKEN}"
        gateway.routed(1)
        gateway.routed(2)
        page.goto(gateway.url)
        client = SteadyClient(gateway.url)
        with client.asking():
            wait_until(lambda: 2 in client.versions, 10, "production answers")
            page.get_by_role("button", name="Roll variant A back to version 1").click()
            dialog = page.get_by_role("dialog", name="Roll variant A back to version 1?")
            go = dialog.get_by_role("button", name="Roll back")

            dialog.get_by_label("Control token").fill("guessed-guessed-guessed")
            go.click()
            expect(dialog.get_by_role("alert")).to_contain_text("not its control token")
            assert gateway.models()["effective"]["A"]["version"] == 2

            dialog.get_by_label("Control token").fill(TOKEN)
            dialog.get_by_label("Reason").fill("it was wrong")
            clicked = time.monotonic()
            go.click()
            expect(page.get_by_role("heading", level=1)).to_have_text("best_model version 1")
            wait_until(lambda: client.versions[-1] == 1, 10, "the version before answers")
        expect(dialog).to_be_hidden()
        expect(page.locator("#routing")).to_contain_text("it was wrong")
        assert client.failures == []
        assert max(at for at, version in client.answers if version == 2) - clicked < SOON_S
        assert gateway.models()["effective"]["A"]["mode"] == "pinned"
        # There is nothing further back.
        expect(page.get_by_role("button", name="Roll variant A back")).to_have_count(0)
