"""Rates, latencies, charts and the timeline of the gateway's page, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import open_window
from tests.support.gateway_harness import Client, RunningGateway, run_gateway
from tests.support.gateway_page import POLL_MS, SOON_MS, Screen, cell, next_poll, stopped
from tests.support.servers import RunningTriton, wait_until


@pytest.fixture
def screen(page: Page, gateway: RunningGateway) -> Screen:
    expect.set_options(timeout=SOON_MS)
    return Screen(page, gateway.url)


def test_rates_latencies_and_the_shadow_appear_under_requests(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.routed(1)
    gateway.routed(2, alias="B")
    gateway.traffic("mirror", 100)
    try:
        page = screen.open()
        with Client(gateway.url, pause_s=0.02) as client:
            for column in (0, 1):
                rate = cell(page, "variants", "Requests/s", column)
                expect(rate).to_have_text(re.compile(r"^[1-9][0-9.]*$"))
                # The client waits 20 ms between its requests.
                assert float(rate.inner_text()) < 50
                expect(cell(page, "variants", "Latency p50", column)).to_contain_text("ms")
                expect(cell(page, "variants", "Latency p99", column)).to_contain_text("ms")
                expect(cell(page, "variants", "Errors/s", column)).to_have_text("0.0")
        expect(page.get_by_role("columnheader", name="B, shadow")).to_be_visible()
        expect(cell(page, "variants", "Traffic", 1)).to_have_text("copies of 100 % (mirror)")

        def report() -> Any:
            return gateway.client.get("/shadow").json()

        copies = len(client.answers)
        counted = ("requests", "failed", "dropped")
        wait_until(lambda: sum(report()[name] for name in counted) == copies, 5, "all compared")
        expect(cell(page, "shadow", "Rows")).to_have_text(str(report()["rows"]))
        expect(cell(page, "shadow", "Disagreements")).to_have_text(str(report()["rows"]))
        expect(cell(page, "shadow", "Agreement")).to_have_text("0.00 %")
        expect(cell(page, "shadow", "Bounds, 95 %")).to_contain_text("0.00 % to ")
        expect(cell(page, "shadow", "Median latency, B − A")).to_contain_text(
            re.compile("s|unknown")
        )
        screen.is_clean()
    finally:
        gateway.traffic("off", 0)


def scrape(replica: str, answered: int, failed: int = 0, model: str | None = None) -> str:
    """Metrics of a replica whose every answer took 2 to 3 ms."""
    label = 'variant="A",version="1"' + ("" if model is None else f',model="{model}"')
    lines = [f'gateway_info{{replica="{replica}"}} 1.0']
    for outcome, count in (("answered", answered), ("failed", failed)):
        lines.append(f'gateway_predictions_total{{{label},outcome="{outcome}"}} {count}.0')
    for bound, count in (("0.002", 0), ("0.003", answered), ("+Inf", answered)):
        lines.append(f'gateway_prediction_seconds_bucket{{{label},le="{bound}"}} {count}.0')
    return "\n".join(lines)


def answers(page: Page, texts: Callable[[int], str]) -> None:
    """Have the scrapes answered by `texts`, of their number."""
    count = 0

    def answer(route: Route) -> None:
        nonlocal count
        route.fulfill(body=texts(count), content_type="text/plain")
        count += 1

    page.route("**/metrics?model=best_model", answer)


def test_counters_of_other_replicas_lives_and_models_are_never_subtracted(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.routed(1)
    page = screen.page
    # Replica `one` counts up by 40 between its two scrapes, `two` starts anew meanwhile.
    scrapes = [
        scrape("one", 1_000_000),
        scrape("two", 5_000),
        scrape("one", 1_000_040) + "\n" + scrape("one", 7_000_000, 9, model="other"),
        scrape("two", 10),
    ]
    answers(page, lambda number: scrapes[min(number, 3)])
    stopped(page)
    screen.open()
    rate, caption = cell(page, "variants", "Requests/s"), page.locator("#variants caption")
    expect(rate).to_have_text("–")
    page.evaluate("document.querySelector('#variants tbody td').same = true")
    next_poll(page, ":03")
    expect(caption).to_have_text("Rates stand here after the next look.")
    expect(rate).to_have_text("–")
    next_poll(page, ":05")
    expect(caption).to_have_text("Rates of the last 20 s, of 1 of 1 replicas.")
    # 40 in 4 s, all of which took 2 to 3 ms.
    expect(rate).to_have_text("10")
    expect(cell(page, "variants", "Latency p50")).to_have_text("2.5 ms")
    expect(cell(page, "variants", "Errors/s")).to_have_text("0.0")
    next_poll(page, ":07")
    expect(rate).to_have_text("10")
    # What did not change was left alone: somebody may be reading or copying it.
    assert page.evaluate("document.querySelector('#variants tbody td').same")
    screen.is_clean()


def test_charts_show_the_last_minutes_and_where_production_moved(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.routed(1)
    page = screen.page
    answered = [0, 20, 20, 100]
    answers(page, lambda number: scrape("one", answered[min(number, 3)]))
    stopped(page)
    screen.open()
    chart = page.get_by_role("img", name="Requests/s of the last 1 min")
    expect(chart).to_have_accessible_name(re.compile(r"now nothing yet; at most 0\.0$"))
    for seconds, now in ((":03", "10"), (":05", "5.0"), (":07", "17")):
        next_poll(page, seconds)
        expect(chart).to_have_accessible_name(
            re.compile(rf"now A {now}(, B 0\.0)?; at most 1[07]$")
        )
    drawn = str(chart.locator("path.line.a").get_attribute("d"))
    heights = [float(height) for height in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn)]
    assert len(heights) == 3
    assert heights[2] < heights[0] < heights[1], "a higher rate stands higher"
    latency = page.get_by_role("img", name="Latency p50")
    expect(latency).to_have_accessible_name(re.compile(r"now A 2\.5 ms"))
    moves = len(chart.locator("path.switch").all())
    gateway.routed(2)
    next_poll(page, ":09")
    expect(chart.locator("path.switch")).to_have_count(moves + 1)
    # Nothing is known while the gateway does not answer: the line ends there.
    page.route("**/models", lambda route: route.abort())
    page.clock.run_for(POLL_MS)
    expect(page.get_by_role("alert")).to_contain_text("no connection")
    page.unroute("**/models")
    next_poll(page, ":13")
    expect(chart).to_have_accessible_name(re.compile("now nothing yet"))
    assert screen.page.evaluate("window.violations") == []


def test_switches_are_a_timeline_with_who_why_and_how_long(
    browser: Browser, tmp_path: Path, shared_triton: RunningTriton
) -> None:
    env = {"GATEWAY_MLFLOW_UI_URL": "https://mlflow.example.com/under/"}
    with (
        run_gateway(tmp_path, shared_triton.http_url, env=env) as gateway,
        open_window(browser) as window,
    ):
        for version in (1, 2, 1):
            answer = gateway.reload(
                version=version, run_id=f"run/{version}", mode="ssot", reason=f"because {version}"
            )
            assert answer.status_code == 200
        assert gateway.reload("B", version=2, run_id="run/2").status_code == 200
        screen = Screen(window, gateway.url)
        status = gateway.models()
        for at, switch in zip(
            ("12:00:00", "10:55:00", "10:54:58"), status["routing"]["switches"]["A"], strict=True
        ):
            switch["at"] = f"2026-11-29T{at}Z"
        status["ssot"]["observed_at"] = "2026-12-02T13:00:01Z"
        screen.page.route("**/models", lambda route: route.fulfill(json=status))
        page = screen.open()
        entries = page.locator("#history li")
        expect(entries).to_have_count(4)
        newest, back, forth, first = entries.all()
        expect(newest).to_contain_text(re.compile("version 2.*variant B.*first version.*pinned"))
        expect(back).to_contain_text(re.compile("version 1.*back from 2.*for 3 d 1 h so far"))
        expect(back).to_contain_text("by token:default")
        expect(back).to_contain_text("because 1")
        expect(forth).to_contain_text(re.compile("version 2.*from 1.*for 1 h 5 min"))
        expect(first).to_contain_text(re.compile("version 1.*first version.*for 2 s"))
        address = "https://mlflow.example.com/under/#/runs/run%2F2"
        expect(forth.get_by_role("link")).to_have_attribute("href", address)
        expect(cell(page, "variants", "run_id").get_by_role("link")).to_have_text("run/1")
        expect(page.locator("#older")).to_be_hidden()

        (move,) = status["routing"]["switches"]["B"]
        status["routing"]["switches"]["B"] = [move] * 9
        expect(page.locator("#older summary")).to_have_text("6 older")
        page.locator("#older summary").press("Enter")
        status["ssot"]["observed_at"] = "2026-12-03T13:00:01Z"
        expect(page.locator("#older")).to_contain_text("4 d 1 h so far")
        expect(page.locator("#older li").last).to_be_visible()  # a poll leaves it open
        screen.is_clean()
