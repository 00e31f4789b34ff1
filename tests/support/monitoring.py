"""The monitoring component: its rules, its dashboard, and a real Prometheus that reads them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.servers import LOOPBACK, ROOT, RunningProcess, answers_ok, free_port, run_process

MONITORING = ROOT / "k8s" / "components" / "monitoring"
NAMESPACE = "serving-platform"
_VARIABLES = {"$__rate_interval": "1m", "$namespace": NAMESPACE, "$model": ".+"}
"""What Grafana puts into the dashboard's queries."""


def rule_groups() -> list[dict[str, Any]]:
    """The rule groups of the PrometheusRule."""
    found = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    groups: list[dict[str, Any]] = found["spec"]["groups"]
    return groups


def dashboard_queries() -> dict[str, str]:
    """Every query of the dashboard by panel and legend, as Prometheus gets it."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    queries: dict[str, str] = {}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, value in _VARIABLES.items():
                query = query.replace(variable, value)
            queries[f"{panel['title']} ({target['refId']})"] = query
    return queries


@dataclass(frozen=True, slots=True)
class RunningPrometheus:
    """A real Prometheus with the rules of the component."""

    url: str
    process: RunningProcess

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now; the test fails when it is refused."""
        answer = self._get("query", query=query)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._get("rules")["data"]["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, trust_env=False)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()


@contextlib.contextmanager
def run_prometheus(home: Path, targets: Mapping[str, str]) -> Iterator[RunningPrometheus]:
    """Scrape each second; `targets` maps a job to its address.

    The labels are those that the PodMonitors give.
    """
    home.mkdir(parents=True, exist_ok=True)
    groups = rule_groups()
    for group in groups:
        group["interval"] = "1s"
    (home / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    scrapes = [
        {
            "job_name": job,
            "static_configs": [{"targets": [address], "labels": {"namespace": NAMESPACE}}],
        }
        for job, address in targets.items()
    ]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": scrapes,
    }
    (home / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    argv = [
        *("prometheus", f"--config.file={home / 'prometheus.yaml'}"),
        *(f"--storage.tsdb.path={home / 'data'}", f"--web.listen-address={LOOPBACK}:{port}"),
    ]
    with run_process(
        argv, ready=lambda: answers_ok(f"{url}/-/ready"), log=home / "prometheus.log"
    ) as process:
        yield RunningPrometheus(url, process)
