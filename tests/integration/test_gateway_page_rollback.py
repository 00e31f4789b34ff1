"""Going back in one click on the gateway's page, while clients are answered."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.support.gateway_harness import run_gateway
from tests.support.load import SteadyClient
from tests.support.servers import RunningTriton, wait_until

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


def test_page_waits_for_a_rollback_that_takes_long_and_tells_what_it_knows(
    page: Page, shared_triton: RunningTriton, tmp_path: Path
) -> None:
    held: list[Route] = []
    with run_gateway(tmp_path, shared_triton.http_url) as gateway:
        gateway.routed(1)
        gateway.routed(2)
        page.goto(gateway.url)
        page.route("**/rollback", lambda route: held.append(route))  # noqa: PLW0108 -- playwright marks it

        def begin() -> None:
            page.get_by_role("button", name="Roll variant A back to version 1").click()
            dialog.get_by_label("Control token").fill(gateway.control_token)
            dialog.get_by_role("button", name="Roll back").click()

        dialog = page.get_by_role("dialog", name="Roll variant A back to version 1?")
        begin()
        # Longer than any question about the state may take.
        expect(dialog.locator("#act-progress")).to_contain_text("5 s", timeout=15_000)
        expect(dialog.locator("#act-problem")).to_be_empty()
        held.pop().abort()
        expect(dialog.get_by_role("alert")).to_contain_text("It is unknown whether")
        dialog.get_by_role("button", name="Cancel").click()
        begin()
        deadline = time.monotonic() + 10
        while not held and time.monotonic() < deadline:
            page.wait_for_timeout(50)  # the browser's events come while its own calls wait
        held.pop().continue_()
        expect(page.get_by_role("heading", level=1)).to_have_text("best_model version 1")
        expect(dialog).to_be_hidden()


def test_page_asks_for_a_key_where_the_gateway_wants_one(
    page: Page, shared_triton: RunningTriton, tmp_path: Path
) -> None:
    env = {"GATEWAY_API_KEYS": TOKEN}
    with run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway:
        gateway.routed(1)
        page.goto(gateway.url)
        form = page.get_by_role("region", name="This gateway needs a key")
        expect(form).to_be_visible()
        form.get_by_label("API key").fill("guessed-guessed-guessed")
        form.get_by_role("button").click()
        expect(form.get_by_role("alert")).to_contain_text("does not accept")
        form.get_by_label("API key").fill(TOKEN)
        form.get_by_role("button").click()
        title = page.get_by_role("heading", level=1)
        expect(title).to_have_text("best_model version 1")
        expect(form).to_be_hidden()
        page.reload()  # the key is kept until the tab is closed
        expect(title).to_have_text("best_model version 1")
