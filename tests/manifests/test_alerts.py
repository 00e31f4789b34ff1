"""The alert rules, judged by promtool: each fires where it should, and stays quiet elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.monitoring import rule_groups

CASES = Path(__file__).with_name("alerts.yaml")


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"] if "alert" in rule]


@pytest.mark.needs("prometheus")
def test_every_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    groups = rule_groups()
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    promtool("check", "rules", rules)
    for group in groups:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    rules.write_text(yaml.safe_dump({"groups": groups}))
    (tmp_path / "tests.yaml").write_text(CASES.read_text())
    promtool("test", "rules", tmp_path / "tests.yaml")


def test_every_alert_has_a_case_where_it_fires_and_one_where_it_does_not() -> None:
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for group in yaml.safe_load(CASES.read_text())["tests"]
        for case in group["alert_rule_test"]
    ]
    wanted = {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}
    assert wanted == set(cases)


def test_every_alert_says_how_bad_it_is_what_happened_and_what_to_do() -> None:
    assert alerts()
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
