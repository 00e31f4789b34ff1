"""The policy that every rendered overlay keeps: pure rules over objects, all of them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.manifests import network_rules, reference_rules, rollout_rules, workload_rules
from tests.manifests.rendering import Manifests

Rule = Callable[[Manifests], Iterator[str]]

EVERYWHERE: Final[tuple[Rule, ...]] = (
    reference_rules.labelled,
    reference_rules.selected,
    reference_rules.monitored,
    reference_rules.ports_resolve,
    reference_rules.addressed,
    reference_rules.secrets_resolve,
    reference_rules.configured,
    reference_rules.gateway_settings,
    reference_rules.pipeline_settings,
    reference_rules.no_version_in_git,
    workload_rules.restricted,
    workload_rules.resourced,
    workload_rules.pinned,
    workload_rules.probed,
    workload_rules.graceful,
    rollout_rules.replaced_in_order,
    rollout_rules.survives_evictions,
    rollout_rules.scaled_by_one,
    rollout_rules.claimed,
    rollout_rules.synced_in_waves,
    network_rules.only_what_dagster_calls,
)
CLUSTER: Final[tuple[Rule, ...]] = (
    rollout_rules.highly_available,
    rollout_rules.shared_between_nodes,
    network_rules.only_declared_flows,
)
"""Rules for environments with several nodes; one machine does without."""
ON_ONE_MACHINE: Final = frozenset({"local"})


def violations(overlay: str, manifests: Manifests) -> list[str]:
    """Everything that an overlay does not keep, as `rule: object: what is wrong`."""
    rules = EVERYWHERE if overlay in ON_ONE_MACHINE else EVERYWHERE + CLUSTER
    return [f"{rule.__name__}: {found}" for rule in rules for found in rule(manifests)]
