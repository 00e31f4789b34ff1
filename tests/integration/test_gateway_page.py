"""`GET /` in a real browser, on a real gateway and Triton: what a person sees, and when."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import open_window
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.gateway_page import POLL_MS, SOON_MS, Screen, cell, next_poll, stopped
from tests.support.servers import LOOPBACK, RunningTriton, free_port

HOSTILE = '<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script>'
LISTEN = """() => {
    window.said = [];
    for (const live of document.querySelectorAll("[role=status], [role=alert], [aria-live]"))
        new MutationObserver(() => said.push(live.textContent)).observe(
            live, {childList: true, characterData: true, subtree: true});
}"""
"""Note what a screen reader would speak."""


@pytest.fixture
def screen(page: Page, gateway: RunningGateway) -> Screen:
    expect.set_options(timeout=SOON_MS)
    return Screen(page, gateway.url)


def test_the_policy_names_the_inline_parts_and_nothing_else(gateway: RunningGateway) -> None:
    answer = gateway.client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    given = [part.split() for part in answer.headers["content-security-policy"].split(";")]
    policy = {name: values for name, *values in given}
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["connect-src"] == ["'self'"]
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}[^>]*>(.*?)</{kind}>", answer.text, re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == [f"'sha256-{digest}'"]
    assert gateway.metric("http_requests_total", path="/", status="200") >= 1
    replica = gateway.models()["replica"]["id"]
    assert gateway.metric("gateway_info", replica=replica) == 1


def test_it_follows_production_without_being_loaded_again(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.reload(version=1, run_id="run-1", mode="ssot", unpin=True)
    page = screen.open()
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("best_model version 1")
    expect(page.locator("#headline")).to_contain_text("In production")
    expect(page.locator(".marks .ok")).to_have_count(2)
    expect(page.locator(".marks")).to_contain_text("Triton has version 1 READY.")
    expect(page.locator(".marks")).to_contain_text("1 of 1, generation")
    expect(cell(page, "variants", "Mode")).to_have_text("ssot")
    expect(page.locator("#pin")).to_be_empty()
    expect(page.locator("#routing")).to_contain_text("2")
    page.evaluate("window.same = true")

    gateway.routed(2)
    expect(title).to_have_text("best_model version 2")
    expect(page).to_have_title("✓ best_model version 2")
    expect(page.get_by_role("status")).to_contain_text("version 2: In production. 1 of 1")
    expect(cell(page, "variants", "run_id")).to_have_text("run-2")
    expect(cell(page, "variants", "Mode")).to_have_text("pinned")
    release = page.locator("#pin code")
    expect(release.nth(0)).to_have_text("POST /variant/A/reload")
    expect(release.nth(1)).to_have_text('{"unpin": true}')
    expect(cell(page, "variants", "In Triton")).to_contain_text("READY")
    expect(cell(page, "variants", "Rollback to")).to_contain_text("version 1, run-1")
    assert page.evaluate("window.same")
    screen.is_clean()


def test_what_others_wrote_is_shown_as_text_and_fits_a_phone(
    browser: Browser, tmp_path: Path, shared_triton: RunningTriton
) -> None:
    with (
        run_gateway(tmp_path, shared_triton.http_url) as gateway,
        open_window(browser, viewport={"width": 360, "height": 740}, is_mobile=True) as window,
    ):
        run_id, reason = "<b>" + "r" * 200, HOSTILE + "x" * 300
        assert gateway.reload(version=1, run_id=run_id, reason=reason).status_code == 200
        gateway.routed(2, alias="B")
        assert gateway.traffic("mirror", 100, reason=reason).status_code == 200
        screen = Screen(window, gateway.url)
        page = screen.open()
        expect(page.locator("#routing")).to_contain_text(HOSTILE)
        expect(cell(page, "variants", "run_id")).to_have_text(run_id)
        assert page.locator("main img, main b, main script").count() == 0
        expect(page.locator("#shadow")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        tables = page.get_by_role("table").all()
        assert len(tables) == 3
        for table in tables:
            assert table.locator("caption").inner_text()
            assert table.locator("th:not([scope])").count() == 0
        screen.is_clean()


def test_a_gateway_that_is_not_ready_says_why_and_one_that_is_gone_is_missed(
    page: Page, tmp_path: Path
) -> None:
    nowhere = f"http://{LOOPBACK}:{free_port()}"
    with run_gateway(tmp_path, nowhere) as lonely:
        screen = Screen(page, lonely.url)
        stopped(page)
        screen.open()
        expect(page.locator("#headline")).to_contain_text("Nothing in production")
        expect(page.locator(".marks .bad")).to_have_count(2)
        expect(page.locator("#first")).to_contain_text("make chain MODEL=best_model, or the job")
        expect(page.locator("#first")).not_to_contain_text("POST")
        for empty in ("#variants", "#charts", "#history"):
            expect(page.locator(empty)).to_be_hidden()
        expect(page.locator("#reasons")).to_contain_text("no version was ever loaded into it")
        expect(page.locator("#routing")).to_contain_text(f"unknown: Triton at {nowhere}")
        expect(page.locator("#replicas")).to_contain_text("Not ready: variant A has no version")
        screen.is_clean()

        lonely.process.kill()
        page.clock.run_for(POLL_MS)
        alert = page.get_by_role("alert")
        expect(alert).to_have_text(
            re.compile(
                r"The gateway has not answered since .*:03 .*\(no connection\)\. "
                r"Below is what it said at .*:01"
            )
        )
        expect(page.locator("#pulse")).to_have_text(re.compile("not live: as of .*:01"))
        expect(page).to_have_title("✕ no live data")
        lonely.process.start()
        next_poll(page, ":05")
        expect(alert).to_be_empty()


def test_one_half_alone_is_not_production(screen: Screen, gateway: RunningGateway) -> None:
    gateway.routed(1)
    good = gateway.models()
    digests = {"onnx_sha256": "0123456789abcdef", "data_fingerprint": "fedcba9876543210"}
    read = {"join_keys": ["customer", "shop"], "request": [f"f{at}" for at in range(12)]}
    good["effective"]["A"].update(digests | {"signature": {"features": [], **read}})
    unrouted = {"effective": {}, "ssot": {**good["ssot"], "served_versions": [7, 8]}}
    (replica,) = good["replicas"]
    late = {**replica, "id": "late", "pid": 4321, "ready": False, "reasons": ["still starting"]}
    unserved = {**good["ssot"], "prod_served_version": None}
    pages = {
        "Triton does not have version 1 READY": {**good, "ssot": unserved},
        "Only 1 of 2 replicas serve it. Not:": {**good, "replicas": [replica, late]},
        "do not all route by the newest generation": {**good, "in_sync": False},
        "Other replicas cannot be listed: no store": {**good, "replicas_problem": "no store"},
    }
    page, states = screen.page, iter([good, *pages.values(), {**good, **unrouted}])
    page.route("**/models", lambda route: route.fulfill(json=next(states)))
    stopped(page)
    screen.open()
    expect(page.locator(".verdict")).to_have_text("✓ In production")
    origin = cell(page, "variants", "Origin")
    expect(origin).to_have_text("data fedcba987654, ONNX 0123456789ab")
    expect(origin.get_by_title(digests["onnx_sha256"], exact=True)).to_be_visible()
    asked = cell(page, "variants", "A look-up needs")
    listed = ", ".join(read["request"][:10])
    expect(asked).to_have_text(f"keys customer, shop; features {listed} and 2 more")
    for second, half in zip((3, 5, 7, 9), pages, strict=True):
        next_poll(page, f":0{second}")
        expect(page.locator(".verdict")).to_have_text("✕ Not proven in production")
        expect(page.locator(".marks .ok")).to_have_count(1)
        expect(page.locator(".marks .bad")).to_contain_text(half)
    next_poll(page, ":11")
    expect(page.locator("#first")).to_contain_text('POST /variant/A/reload with {"version":8}')
    expect(page.locator("#variants")).to_be_hidden()
    screen.is_clean()


def test_a_prefix_in_front_of_the_gateway_is_kept(screen: Screen, gateway: RunningGateway) -> None:
    gateway.routed(1)

    def forward(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/some/prefix", "")))

    screen.page.route("**/some/prefix/**", forward)
    page = screen.open("/some/prefix/")
    expect(page.get_by_role("heading", level=1)).to_have_text("best_model version 1")
    expect(cell(page, "variants", "Version")).to_have_text("1")
    asked = {url.removeprefix(f"{gateway.url}/some/prefix/") for url in screen.asked}
    assert asked - {"data:,"} == {"", "models", "shadow", "metrics?model=best_model"}
    screen.is_clean()


def test_a_refused_poll_is_not_shown_as_live(screen: Screen, gateway: RunningGateway) -> None:
    page = screen.page
    page.route("**/models", lambda route: route.fulfill(status=403, json={"error": "not you"}))
    screen.open()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("HTTP 403 not you")
    expect(alert).to_contain_text("Nothing is known yet.")


def test_a_model_that_is_not_hosted_leads_to_those_that_are(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.routed(1)
    # What is hosted under another name is asked for below that name, and only there.
    page = screen.open("?model=no_such/model")
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("There is no model no_such/model")
    expect(page.get_by_role("heading", level=2)).to_have_count(0)
    expect(page.get_by_role("alert")).to_be_empty()
    assert f"{gateway.url}/models/no_such%2Fmodel/shadow" in screen.asked
    assert not [url for url in screen.asked if "metrics" in url]
    expect(page.locator("#headline")).not_to_contain_text("make chain")
    page = screen.open("?model=cars")
    expect(page.locator("#headline")).to_contain_text("end of a chain: make chain MODEL=cars.")
    page.get_by_role("main").get_by_role("link", name="best_model").click()
    expect(title).to_have_text("best_model version 1")
    expect(cell(page, "variants", "Version")).to_have_text("1")


def test_several_models_have_a_page_each(screen: Screen, gateway: RunningGateway) -> None:
    gateway.routed(1)
    page = screen.page
    both = {**gateway.models(), "models": ["best_model", "other"]}
    other = {**both, "ssot": {**both["ssot"], "model_name": "other"}}
    page.route("**/models", lambda route: route.fulfill(json=both))
    page.route("**/models/other", lambda route: route.fulfill(json=other))
    shadow = gateway.client.get("/shadow").json()
    page.route("**/models/other/shadow", lambda route: route.fulfill(json=shadow))
    stopped(page)
    screen.open()
    models = page.get_by_role("navigation", name="Models")
    expect(models.get_by_role("link")).to_have_count(2)
    expect(models.locator("[aria-current=page]")).to_have_text("best_model")
    models.get_by_role("link", name="other").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("other version 1")
    expect(models.locator("[aria-current=page]")).to_have_text("other")
    page.keyboard.press("Tab")
    next_poll(page, ":03")
    assert page.evaluate("document.activeElement.textContent") == "best_model"
    screen.is_clean()


def with_newest_switches(route: Route) -> None:
    status = route.fetch().json()
    switches = status["routing"]["switches"]
    status["routing"]["switches"] = {alias: moves[:2] for alias, moves in switches.items()}
    route.fulfill(json=status)


def test_a_poll_leaves_the_focus_and_says_nothing_unless_something_changed(
    screen: Screen, gateway: RunningGateway
) -> None:
    gateway.routed(2)
    gateway.routed(1)
    page = screen.page
    # Without the switches of earlier tests: older ones are folded, which is one more stop.
    page.route("**/models", with_newest_switches)
    stopped(page)
    screen.open()
    expect(page.locator("#pulse")).to_contain_text("live, ")
    for landmark in ("header", "main", "footer"):
        assert page.locator(f"body > {landmark}").count() == 1
    focused = "document.activeElement.getAttribute('href') ?? document.activeElement.ariaLabel"
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
    back = "Roll variant A back to version 2"
    assert reached == [back, "docs", "models", "shadow", "metrics"]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    page.evaluate(LISTEN)
    next_poll(page, ":03")
    next_poll(page, ":05")
    assert page.evaluate("window.said") == []
    gateway.routed(2)
    next_poll(page, ":07")
    expect(page.get_by_role("status")).to_contain_text("version 2")
    assert len(page.evaluate("window.said")) == 1
    assert page.evaluate(focused) == "metrics"
    screen.is_clean()


def test_the_api_page_runs_the_script_of_the_gateway_alone(screen: Screen) -> None:
    page = screen.open("/docs")
    last = page.locator("#operations-control-reload_variant__alias__reload_post")
    expect(last).to_be_visible(timeout=30_000)  # a megabyte and a half of script
    call = page.locator("#operations-data-predict_by_default_predict_post button").first
    call.click(timeout=30_000)  # four seconds where other processes want the same cores
    expect(page.locator(".opblock.is-open")).to_contain_text("customer-17")
    screen.is_clean()
