"""A release on the gateway's page: its steps and evidence, approved and stopped by buttons."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.support.browser import barriers
from tests.support.gateway_harness import run_gateway
from tests.support.gateway_page import Screen
from tests.support.release_stops import act
from tests.support.servers import RunningTriton

PLAN = {
    "steps": [{"strategy": "mirror", "percent": 100}],
    "approval": "before_traffic",
    "guardrails": {"failures": 0.005, "disagreement": 0.05},
}


def test_release_is_shown_with_its_evidence_and_decided_on_by_buttons(
    page: Page, shared_triton: RunningTriton, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, shared_triton.http_url) as gateway:
        assert gateway.reload(version=1, run_id="r", mode="ssot").status_code == 200
        screen = Screen(page, gateway.url)
        screen.open()
        panel = page.get_by_role("region", name="Release", exact=True)
        expect(page.get_by_role("heading", level=1)).to_have_text("best_model version 1")
        expect(panel).to_be_hidden()

        body = {"version": 2, "run_id": "run-2", "plan": PLAN}
        assert gateway.client.post("/release", json=body).status_code == 200
        expect(panel).to_contain_text("Version 2 waits for an approval")
        expect(panel.locator("[aria-current=step]")).to_contain_text("mirror 100 %")
        panel.get_by_role("button", name="Approve").click()
        dialog = page.get_by_role("dialog", name="Approve version 2?")
        dialog.get_by_label("Control token").fill(gateway.control_token)
        dialog.get_by_label("Reason").fill("it looks good")
        dialog.get_by_role("button", name="Approve").click()
        expect(panel).to_contain_text("Version 2 is being released (step 1 of 1)")
        for _ in range(20):
            gateway.predict()
        disagreement = panel.get_by_role("row", name="Disagreement")
        expect(disagreement).to_contain_text("broken")
        expect(panel).to_contain_text("20 requests or copies in this phase, 0 failed")
        assert barriers(page) == []

        panel.get_by_role("button", name="Stop").click()
        dialog = page.get_by_role("dialog", name="Stop the release of version 2?")
        dialog.get_by_label("Reason").fill("they disagree")
        dialog.get_by_role("button", name="Stop").click()
        expect(panel).to_contain_text("Reason: they disagree")
        expect(panel.get_by_role("button")).to_have_count(0)
        panel.get_by_text("What was decided").click()
        expect(panel.locator("#release-acts")).to_contain_text("it looks good")
        screen.is_clean()


def test_release_that_another_change_ends_after_the_switch_says_that_its_version_stays(
    page: Page, shared_triton: RunningTriton, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, shared_triton.http_url) as gateway:
        assert gateway.reload(version=2, run_id="r", mode="ssot").status_code == 200
        plan = {"steps": PLAN["steps"], "guardrails": {}, "watch_seconds": 600}
        body = {"version": 1, "run_id": "run-1", "plan": plan}
        begun = gateway.client.post("/release", json=body).json()["release"]
        screen = Screen(page, gateway.url)
        screen.open()
        panel = page.get_by_role("region", name="Release", exact=True)
        expect(panel).to_contain_text("Version 1 is being released")
        expect(panel).not_to_contain_text("READY too")

        act(gateway, "advance", id=begun["id"], state="running", step=0, verdict="go")
        assert gateway.reload(version=1, run_id="run-1", mode="ssot").status_code == 200
        expect(panel).to_contain_text("Version 1 was switched to, and is watched")
        assert gateway.client.delete("/variant/B").status_code == 200
        expect(panel).to_contain_text("Version 1 was switched to, and is watched no more")
        expect(panel.locator("#release-steps")).to_contain_text("switch, done")
        expect(panel.locator("#release-steps")).to_contain_text("watch, ended here")
        screen.is_clean()
