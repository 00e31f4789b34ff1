"""The alert rules and the dashboard ask for what a real gateway and a real Triton tell."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.gateway_harness import RunningGateway
from tests.support.monitoring import (
    RunningPrometheus,
    dashboard_queries,
    rule_groups,
    run_prometheus,
)
from tests.support.servers import RunningTriton, wait_until

pytestmark = pytest.mark.needs("prometheus")
_SELECTOR = re.compile(
    r"\b((?:gateway|nv|http|kube|process)_\w+|up|serving:[\w:]+)(\{(?:\"[^\"]*\"|[^\"}])*\})?"
)
_OF_THE_CLUSTER = "kube_"
"""Series of kube-state-metrics, which nothing here tells."""


@pytest.fixture(scope="module")
def routes() -> dict[str, int]:
    return {}


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, shared_triton: RunningTriton, gateway: RunningGateway
) -> Iterator[RunningPrometheus]:
    """Has scraped a gateway to which everything happened that the rules ask about."""
    targets = {
        "gateway": gateway.url.removeprefix("http://"),
        "triton": shared_triton.metrics_url.removeprefix("http://").removesuffix("/metrics"),
    }
    with run_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
        assert gateway.predict().status_code == 503  # nothing is in production yet
        assert gateway.reload(version=99, run_id="none").status_code != 200
        gateway.routed(1)
        gateway.routed(2, "B")
        gateway.traffic("mirror", 100)

        def all_is_reported() -> bool:
            gateway.predict()
            compared = running.ask('rate(gateway_shadow_rows_total{outcome="disagreed"}[1m]) > 0')
            return bool(compared and running.ask("serving:prediction_failures:ratio3d"))

        wait_until(all_is_reported, 30, "rates of everything")
        yield running


def test_every_rule_is_evaluated_and_none_fires_for_nothing(prometheus: RunningPrometheus) -> None:
    wanted = sum(len(group["rules"]) for group in rule_groups())
    wait_until(
        lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), 10, "all evaluated"
    )
    rules = prometheus.rules()
    assert len(rules) == wanted
    firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
    # What was done to the gateway on purpose, and nothing else.
    assert firing <= {"SwitchRefused", "ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly"}
    assert "SwitchRefused" in firing


def test_every_series_that_a_rule_asks_for_is_there(prometheus: RunningPrometheus) -> None:
    missing = {
        selector
        for group in rule_groups()
        for rule in group["rules"]
        for selector in selectors(rule["expr"])
        if not selector.startswith(_OF_THE_CLUSTER) and not prometheus.ask(selector)
    }
    assert missing == set()


def test_every_query_of_the_dashboard_finds_data(prometheus: RunningPrometheus) -> None:
    queries = dashboard_queries()
    assert len(queries) > 20
    answers = {name: prometheus.ask(query) for name, query in queries.items()}
    empty = {name for name, found in answers.items() if not found}
    assert empty == {name for name, query in queries.items() if query.startswith("kube_")}


def test_the_effective_version_is_reported_as_triton_confirms_it(
    prometheus: RunningPrometheus,
) -> None:
    (found,) = prometheus.ask('gateway_effective_version_ready{variant="A"}')
    assert (found["metric"]["model"], found["metric"]["version"]) == ("best_model", "1")
    assert found["value"][1] == "1"


def selectors(expression: str) -> set[str]:
    """The series that an expression reads."""
    text = re.sub(r"#.*", "", expression)
    return {"".join(match.groups("")) for match in _SELECTOR.finditer(text)}
