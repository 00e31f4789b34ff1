"""Every fault and abuse case: the tests that prove it in CI, the guard, and its long form.

`test_cases.py` fails when a test that is named here does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GATEWAY: Final = "tests/integration/test_gateway_"
_HERE: Final = "tests/faults/test_"
_LIFECYCLE: Final = "tests/integration/test_triton_lifecycle.py::test_"
_LOSSES: Final = "tests/integration/test_triton_losses.py::test_"
_LAPTOP: Final = "tests/e2e/test_laptop.py::test_"
_CHAIN: Final = "tests/integration/test_full_chain.py::test_"
_LOADING: Final = "tests/integration/test_serving_loading.py::test_"
_MLFLOW: Final = "tests/integration/test_mlflow_resource.py::test_"
_ADOPTION: Final = "tests/integration/test_adoption.py::test_"
_AGAINST_PRODUCTION: Final = "tests/integration/test_gates_against_production.py::test_"
_RELEASED: Final = _HERE + "releases.py::test_"
_SIGNALS: Final = _HERE + "triton_signals.py::test_"
_OVERLOAD: Final = (
    _HERE + "overload.py::test_overload_is_shed_at_once_and_what_is_accepted_is_answered_in_time"
)
_FIRES: Final = "tests/e2e/test_automation_fires.py::test_"
_KILLED: Final = _HERE + "killed_runs.py::test_"


@dataclass(frozen=True, slots=True)
class Case:
    """A case.

    `tests` are node ids without parameters. `long` are the arguments of `python -m` for its long
    form; without any, that is its tests as they are. `figures` names what a long form of pytest
    reports.
    """

    name: str
    guard: str
    tests: tuple[str, ...]
    long: tuple[str, ...] = ()
    figures: str | None = None


def _pytest(node: str) -> tuple[str, ...]:
    return ("pytest", "-q", node, "--timeout", "3600")


_TRITON: Final = (
    Case(
        "kill -9 under load",
        "a lost connection is 503 at once, and the prober finds the version again",
        (
            _GATEWAY + "faults.py::test_the_loss_of_triton_is_answered_at_once_and_heals_by_itself",
            _LIFECYCLE + "kill_9_and_restart_bring_back_exactly_the_persisted_versions",
            _LAPTOP + "a_killed_triton_comes_back_with_exactly_what_served",
            _SIGNALS + "a_killed_triton_is_answered_for_within_a_second_and_comes_back_by_itself",
        ),
        _pytest(
            _SIGNALS + "a_killed_triton_is_answered_for_within_a_second_and_comes_back_by_itself"
        ),
        "killed",
    ),
    Case(
        "SIGTERM",
        "what runs and what waits is finished; config.pbtxt is replaced after READY",
        (
            _LIFECYCLE + "sigterm_finishes_what_runs_and_what_waits",
            _SIGNALS + "sigterm_during_a_load_leaves_what_served_and_the_load_converges",
        ),
        _pytest(_SIGNALS + "sigterm_during_a_load_leaves_what_served_and_the_load_converges"),
        "sigterm",
    ),
    Case(
        "SIGSTOP",
        "staleness of a confirmed READY, deadlines of requests; what waits for nothing is refused",
        (
            _GATEWAY + "faults.py::test_a_frozen_triton_times_out",
            _LOSSES + "a_stopped_triton_is_reported_within_two_seconds",
            _SIGNALS + "a_stopped_triton_costs_clients_a_second_at_most_and_comes_back_by_itself",
        ),
        _pytest(
            _SIGNALS + "a_stopped_triton_costs_clients_a_second_at_most_and_comes_back_by_itself"
        ),
        "stopped",
    ),
    Case(
        "restart of one of two under load",
        "requests go to the servers that have the version READY",
        (
            _LOSSES + "a_planned_restart_of_either_server_fails_no_request",
            _LOSSES + "the_crash_of_one_server_fails_at_most_what_it_was_working_on",
        ),
    ),
    Case(
        "candidate that was not persisted, or whose files are broken",
        "config.pbtxt names verified versions only",
        (
            _LIFECYCLE + "a_candidate_that_was_not_persisted_is_not_back_after_a_restart",
            _LIFECYCLE + "a_broken_candidate_leaves_the_others_serving_and_the_server_ready",
            _LOADING + "a_restarted_triton_serves_exactly_what_served",
            _LOADING + "a_triton_that_dies_after_a_bad_candidate_serves_exactly_what_served",
        ),
        _pytest("tests/integration/test_serving_loading.py"),
        "bad_candidates",
    ),
    Case(
        "concurrent control calls",
        "compare-and-set of the routing record, one change at a time",
        (
            _GATEWAY + "reload.py::test_fifty_concurrent_changes_by_two_processes_lose_none",
            _HERE + "control_calls.py::test_control_calls_of_32_threads_lose_no_change",
        ),
        _pytest(_HERE + "control_calls.py"),
        "control",
    ),
    Case(
        "overload",
        "bounds of the queue in requests, bytes and time",
        (
            _GATEWAY + "limits.py::test_refusing_costs_less_than_answering",
            _GATEWAY + "limits.py::test_overloaded_triton_is_not_asked_again",
            _GATEWAY
            + "limits.py::test_reload_of_a_flooded_version_does_not_wait_behind_its_clients",
            _OVERLOAD,
        ),
        _pytest(_HERE + "overload.py"),
        "overload",
    ),
    Case(
        "switches under load",
        "a table is replaced as a whole; what a retired version cannot answer the next one does",
        (
            _HERE + "histories.py::test_no_client_of_four_replicas_goes_back_or_meets_a_version"
            "_out_of_its_time",
            _GATEWAY + "faults.py::test_a_retired_version_hands_over_without_a_failed_request",
            "tests/unit/test_dispatcher.py"
            "::test_request_whose_version_is_retired_meanwhile_gets_the_next",
        ),
        ("tests.benchmarks.switches", "--switches", "500"),
    ),
)

_ARTIFACTS: Final = (
    Case(
        "truncated, bit-flipped, digest changed",
        "digests in MLflow and provenance.json, checked before each load",
        (
            _CHAIN + "a_model_damaged_between_entry_and_load_never_reaches_production",
            "tests/integration/test_gates.py::test_a_graph_replaced_in_mlflow_is_found_and_never_packaged",
            _LOADING + "a_version_damaged_after_packaging_is_not_loaded",
            "tests/unit/test_model_repository.py::test_truncation_after_packaging_is_found",
            "tests/unit/test_model_repository.py::test_bytes_that_are_not_those_recorded_are_not_packaged",
        ),
    ),
    Case(
        "wrong shape, NaN, another answer than scikit-learn's",
        "parity gates before the switch",
        (
            _CHAIN + "a_version_that_answers_otherwise_than_trained_never_reaches_production",
            "tests/integration/test_gates.py::test_every_parity_check_fails_on_answers_that_differ",
            "tests/unit/test_export_parity.py::test_nan_is_no_parity",
            _ADOPTION + "a_graph_with_another_interface_is_refused_by_name",
        ),
    ),
    Case(
        "ONNX with data outside its folder, graphs that exhaust the machine",
        "external data is refused; third-party graphs run in a process with limits first",
        (
            _ADOPTION + "weights_outside_of_the_file_are_refused",
            _ADOPTION + "a_graph_that_would_take_the_machine_down_is_refused",
        ),
    ),
    Case(
        "publisher killed at every operation on files",
        "a version is staged, fsynced and renamed",
        (
            _HERE + "publishing.py::test_publisher_killed_at_every_step_leaves_nothing_or_all"
            "_and_another_finishes",
        ),
        _pytest(_HERE + "publishing.py"),
        "publishing",
    ),
    Case(
        "two publishers of one version",
        "a version directory is written once",
        (
            _HERE + "publishing.py::test_of_publishers_of_one_version_one_wins_and_none_mixes",
            _CHAIN + "a_version_directory_with_other_content_is_never_overwritten",
        ),
    ),
    Case(
        "full disk",
        "nothing is replaced before all of it is written",
        (
            _HERE
            + "publishing.py::test_full_disk_takes_no_part_of_a_version_and_a_rerun_converges",
            _HERE + "publishing.py::test_full_disk_refuses_changes_and_no_prediction",
            _LOADING + "a_full_disk_after_ready_gives_the_candidate_back",
        ),
    ),
    Case(
        "hostile names",
        "names are checked where paths are made of them",
        (
            "tests/unit/test_model_repository.py::test_a_name_that_could_leave_the_repository_is_refused",
            _MLFLOW + "an_artifact_path_cannot_leave_its_run",
        ),
    ),
)

_REPLICAS: Final = (
    Case(
        "rolling restarts under load",
        "preStop hooks, readiness, a drain before the end",
        (
            _HERE + "rolling_updates.py::test_replacing_all_gateways_and_triton_drops_no_request",
            _HERE + "rolling_updates.py::test_without_the_pre_stop_hook_requests_fail",
        ),
        ("tests.benchmarks.rolling", "--rounds", "20"),
    ),
    Case(
        "a replica that does not follow",
        "the switch waits for every replica",
        (
            "tests/integration/test_gates.py::test_the_switch_is_not_done_before_every_replica_follows",
            "tests/integration/test_gates.py::test_a_replica_on_another_version_fails_the_check_after_the_switch",
        ),
    ),
    Case(
        "rollbacks by four replicas under load",
        "announcements of the store, a table per generation",
        (_GATEWAY + "drills.py::test_twenty_rollbacks_fail_no_request_and_reach_all_replicas",),
        ("tests.benchmarks.drills", "--drills", "1000"),
    ),
    Case(
        "switches two seconds apart",
        "what the store announces is read at once",
        (
            _GATEWAY + "replicas.py"
            "::test_all_replicas_follow_within_a_second_and_every_one_sees_it",
            "tests/unit/test_gateway_watcher.py"
            "::test_an_announcement_is_followed_without_waiting_for_the_interval",
        ),
        (
            "tests.benchmarks.switches",
            *("--switches", "200", "--every", "2", "--per-second", "300"),
        ),
    ),
    Case(
        "clients that disconnect, slow and silent connections",
        "one sweep ends what is overdue; what a client leaves is abandoned",
        (
            _GATEWAY + "limits.py::test_clients_that_disconnect_leave_nothing",
            _GATEWAY + "limits.py::test_slow_and_silent_clients_are_ended",
            "tests/unit/test_connection_limits.py::test_slow_bytes_do_not_extend_the_limit",
            _HERE + "clients.py::test_a_thousand_clients_that_leave_cost_the_others_nothing",
            _HERE + "clients.py::test_slow_clients_are_ended_in_time_and_delay_no_other",
        ),
        _pytest(_HERE + "clients.py"),
        "clients",
    ),
    Case(
        "store down, stopped, down at the start",
        "requests never ask the store; snapshots of the last records",
        (
            _GATEWAY
            + "redis_faults.py::test_a_killed_redis_fails_no_request_and_gets_back_what_it_lost",
            _GATEWAY + "redis_faults.py::test_a_stopped_redis_delays_no_request"
            "_and_no_refused_change_happens_later",
            _GATEWAY
            + "redis_faults.py::test_a_start_without_the_store_resumes_what_triton_still_confirms",
            _GATEWAY + "losses.py::test_the_loss_of_redis_fails_no_request",
            _GATEWAY + "redis_store.py::test_a_change_that_was_abandoned_does_not_happen_later",
        ),
    ),
    Case(
        "corrupt records, stale writers, lost commits",
        "compare-and-set, ancestors, the merge of records",
        (
            _GATEWAY + "convergence.py::test_a_corrupt_key_affects_its_own_model_only",
            _GATEWAY + "convergence.py::test_lost_commits_are_noticed_within_the_watch_interval",
            _GATEWAY + "redis_store.py::test_a_write_on_an_old_generation_is_refused",
        ),
    ),
    Case(
        "activator killed between READY and commit, and before the acknowledgement",
        "the change is one compare-and-set; a repeated one, asked of the next replica, changes"
        " nothing",
        (
            _KILLED + "a_run_killed_at_every_asset_and_resumed_does_each_thing_once",
            _CHAIN + "a_retried_switch_changes_nothing",
            _HERE + "activation.py::test_activation_whose_replica_dies_around_the_commit"
            "_happens_once",
        ),
        _pytest(_HERE + "activation.py"),
        "activation",
    ),
)

_SERVICES: Final = (
    Case(
        "killed, stopped, slow, erroring",
        "requests never ask MLflow; circuit breakers, deadlines",
        (
            _GATEWAY + "losses.py::test_the_loss_of_mlflow_fails_no_request",
            _GATEWAY + "reload.py::test_a_reload_works_without_mlflow_by_what_is_on_record",
            _GATEWAY + "features.py::test_loss_of_the_feature_store_fails_no_request_with_a_row",
            _GATEWAY + "feast_store.py::test_redis_that_hangs_or_dies_costs_little_and_recovers",
            _MLFLOW + "a_server_that_dies_or_hangs_between_two_calls_is_known_within_seconds",
        ),
    ),
    Case(
        "alias or version moved manually",
        "the registry is a record; Triton and the gateways say what serves",
        (
            "tests/e2e/test_automation_fires.py::test_a_manual_move_is_recorded",
            "tests/integration/test_reconcile.py::test_a_version_loaded_from_outside_is_unloaded",
        ),
    ),
    Case(
        "other features, or another order of them",
        "the feature contract of version, graph, feature store and gateway is one digest",
        (
            _AGAINST_PRODUCTION + "a_feature_store_with_another_contract_is_blocked",
            _AGAINST_PRODUCTION + "a_graph_with_another_contract_is_blocked",
            _AGAINST_PRODUCTION
            + "a_removed_feature_is_blocked_until_the_file_says_that_it_is_meant",
            "tests/unit/test_gateway_control_plane.py"
            "::test_other_features_than_the_caller_names_are_refused",
        ),
    ),
    Case(
        "hostile sources and pickles",
        "nothing of the registry is unpickled; sources are read under limits",
        (
            "tests/integration/test_hostile_sources.py::test_a_source_trains_or_is_refused_with_its_place",
            _MLFLOW + "a_malicious_pickle_in_the_registry_is_never_opened",
            _ADOPTION + "nothing_is_unpickled_of_a_version_without_a_graph",
            "tests/e2e/test_automation_fires.py::test_a_hostile_third_party_version_is_refused_and_reported",
        ),
    ),
)

_DAGSTER: Final = (
    Case(
        "run worker killed at every asset",
        "every asset is idempotent, and a resumed run does each thing once",
        (
            _KILLED + "a_run_killed_at_every_asset_and_resumed_does_each_thing_once",
            _KILLED + "a_killed_rollback_that_is_resumed_goes_back_once",
            _KILLED + "a_resumed_run_does_not_pass_a_gate_that_failed",
        ),
        _pytest(_KILLED + "a_run_killed_at_every_asset_and_resumed_does_each_thing_once"),
        "killed_runs",
    ),
    Case(
        "two runs at once",
        "turns of a model's steps",
        (
            "tests/integration/test_turns.py::test_a_step_takes_the_turns_that_it_needs",
            _LAPTOP + "chains_launched_at_once_follow_each_other_without_a_failed_request",
        ),
    ),
    Case(
        "daemon down for minutes",
        "run keys, cursors and queued runs are stored; a release is part of the routing record",
        (
            _FIRES + "what_came_due_while_the_daemon_was_down_is_done_once",
            "tests/unit/test_automation.py::test_files_are_read_only_when_their_size_or_time_differs",
        ),
        _pytest("tests/e2e/test_automation_fires.py"),
        "daemon",
    ),
    Case(
        "cancellation during publishing",
        "a version is staged and renamed; a turn ends with its run",
        (_KILLED + "a_run_canceled_while_it_publishes_or_switches_leaves_nothing_half_done",),
        _pytest(_KILLED + "a_run_canceled_while_it_publishes_or_switches_leaves_nothing_half_done"),
        "canceled_runs",
    ),
)

_ACCESS: Final = (
    Case(
        "generated requests",
        "every answer is described, and none is a bug",
        (
            _GATEWAY + "openapi.py::test_no_generated_request_meets_a_bug_or_an_undescribed_answer",
            "tests/unit/test_connection_fuzz.py::test_no_bytes_make_the_gateway_fail",
        ),
        _pytest(_GATEWAY + "openapi.py"),
        "openapi",
    ),
    Case(
        "bombs, 100 MB, 1e6 rows, deep JSON, NaN, ragged rows, chunks of a byte",
        "limits on bytes before anything is decoded, decompression under the same limit",
        (
            _HERE + "abuse.py::test_abuse_is_refused_without_memory_and_answers_go_on",
            _GATEWAY + "limits.py::test_large_body_does_not_stop_the_event_loop",
        ),
        _pytest(_HERE + "abuse.py"),
        "abuse",
    ),
    Case(
        "request smuggling",
        "a strict parser, and the end of the connection after what two readers cut differently",
        (
            _HERE + "smuggling.py::test_nothing_hidden_in_a_request_passes_the_balancers_rules",
            _HERE
            + "smuggling.py::test_no_attack_on_the_gateway_itself_is_answered_as_another_request",
            "tests/unit/test_connection.py::test_ambiguous_request_is_refused_and_the_connection_ends",
        ),
    ),
    Case(
        "every route without, or with a wrong credential",
        "a route says what it needs where it is made; a new one is covered at once",
        (
            "tests/unit/test_route_access.py::test_control_route_refuses_all_but_a_token",
            "tests/unit/test_route_access.py::test_other_route_refuses_callers_without_a_key",
            _GATEWAY + "access.py::test_an_escaped_path_is_another_path",
        ),
    ),
    Case(
        "Triton's admin APIs, on HTTP and gRPC",
        "restricted APIs, and a gateway that relays inference only",
        (
            _LIFECYCLE + "what_changes_the_server_is_locked_over_http",
            _LIFECYCLE + "what_changes_the_server_is_locked_over_grpc",
            _GATEWAY + "oip.py::test_nothing_else_of_triton_is_reachable",
        ),
    ),
    Case(
        "secrets in logs, errors and spans",
        "values of secrets are removed from messages",
        (
            _GATEWAY + "edges.py::test_a_key_is_no_control_token_and_is_never_logged",
            _GATEWAY + "redis_store.py::test_a_redis_that_is_gone_is_reported_without_its_password",
            _GATEWAY + "tracing.py::test_no_span_holds_what_a_client_sent",
            "tests/unit/test_failure_messages.py::test_a_failure_holds_no_secret_of_the_environment",
        ),
    ),
    Case(
        "rotation of keys and tokens under load",
        "several keys, and several tokens of one name, are valid at once",
        (
            _HERE
            + "rotation.py::test_no_caller_with_a_valid_secret_is_refused_and_no_secret_is_shown",
        ),
        _pytest(_HERE + "rotation.py"),
        "rotation",
    ),
)

_RELEASES: Final = (
    Case(
        "a candidate that fails or disappears, abort, the store lost",
        "a replica withdraws B by itself; a stop is in effect before it is written",
        (
            "tests/unit/test_release_watch.py::test_a_failing_candidate_loses_its_share_without_a_failed_request",
            "tests/unit/test_release_watch.py::test_a_candidate_that_triton_loses_ends_its_release",
            "tests/unit/test_release_routes.py::test_only_a_stop_takes_effect_without_the_store_and_is_written_later",
            _GATEWAY
            + "releases.py::test_a_stop_at_one_replica_puts_the_clients_of_all_on_a_at_once",
        ),
    ),
    Case(
        "a flood of outcomes",
        "bytes that wait are bounded, calls take turns; the first outcome of a row counts",
        (
            _HERE
            + "outcome_flood.py::test_flood_of_outcomes_harms_no_client_no_memory_and_no_verdict",
        ),
        _pytest(_HERE + "outcome_flood.py"),
        "outcomes",
    ),
    Case(
        "other changes, two releases at once, an approval during a restart",
        "each change of routing settles the release within the same record",
        (
            "tests/unit/test_release_transitions.py::test_each_change_leads_to_a_defined_state",
            "tests/unit/test_release_pilot.py::test_without_its_memory_the_pilot_goes_on_from_the_record",
            _GATEWAY + "releases.py::test_a_release_goes_its_way_over_two_replicas_and_a_restart",
            _RELEASED + "another_change_ends_the_release_for_all_clients",
            _RELEASED + "two_releases_at_once_leave_one_that_names_the_other",
            _RELEASED + "a_replica_that_missed_a_step_and_an_approval_follows",
            _RELEASED + "a_version_that_is_loaded_meanwhile_waits_for_the_end",
            _HERE + "protocol_model.py::test_random_walks_break_no_invariant",
        ),
    ),
    Case(
        "a version that fails for some clients, on a whole stack (`make release-demo`)",
        "the guardrail `failures`; A answers what B cannot",
        (
            "tests/unit/test_release_demo.py::test_clients_ask_at_their_rate_and_count_what_fails",
            _RELEASED + "candidate_ends_as_it_deserves_and_no_client_notices",
        ),
        _pytest("tests/e2e/test_release_demo.py"),
        "release_demo",
    ),
    Case(
        "twelve bad and six good candidates under load",
        "a confidence sequence for each guardrail; A answers what B cannot",
        (_RELEASED + "candidate_ends_as_it_deserves_and_no_client_notices",),
        ("tests.benchmarks.releases",),
    ),
    Case(
        "every process killed in every step, clocks that jump",
        "the release is part of the routing record; the pilot and the replicas go on from it",
        (
            _RELEASED + "release_survives_what_dies_in_any_step",
            _RELEASED + "stop_without_the_store_is_in_effect_at_once_and_written_later",
            _RELEASED + "what_a_killed_replica_had_counted_is_not_lost",
            _RELEASED + "a_clock_that_jumps_ends_no_step_too_early_and_no_release",
            _FIRES + "what_came_due_while_the_daemon_was_down_is_done_once",
        ),
        _pytest(_HERE + "releases.py"),
        "releases",
    ),
)

_PROTOCOL: Final = (
    Case(
        "state machine over the pure code",
        "the transitions, the merge of records, releases, the policy of versions",
        (
            _HERE + "protocol_model.py::test_random_walks_break_no_invariant",
            _HERE + "protocol_model.py::test_model_notices_loss_of_guard",
        ),
        _pytest(_HERE + "protocol_model.py"),
        "protocol",
    ),
    Case(
        "state machine over real processes",
        "the same, and what the processes do when one of them dies",
        (_HERE + "real_protocol.py::test_no_step_of_real_processes_breaks_an_invariant",),
        _pytest(_HERE + "real_protocol.py"),
        "real protocol",
    ),
    Case(
        "histories of clients",
        "tables of one generation, and x-min-generation",
        (
            _HERE + "histories.py::test_checker_notices_planted_bug",
            _HERE + "histories.py::test_no_client_of_four_replicas_goes_back_or_meets_a_version"
            "_out_of_its_time",
        ),
        _pytest(_HERE + "histories.py"),
        "histories",
    ),
    Case(
        "histories of clients while the network is partitioned",
        "requests never ask the store; a replica without it says so, takes no change, and follows",
        (
            _HERE + "partitions.py::test_replica_cut_off_from_the_store_answers_by_what_it_has"
            "_says_so_and_follows",
        ),
        _pytest(_HERE + "partitions.py"),
        "partitions",
    ),
    Case(
        "endurance",
        "records, snapshots and versions that are replaced take the place of the ones before",
        (
            _HERE + "endurance.py::test_switches_and_restarts_fail_no_request"
            "_and_leave_nothing_behind",
        ),
        _pytest(_HERE + "endurance.py"),
        "endurance",
    ),
    Case(
        "a million requests",
        "what is held for clients is bounded in bytes",
        (_OVERLOAD, "tests/unit/test_batching.py::test_queue_is_bounded_in_items_and_in_bytes"),
        ("tests.benchmarks.soak", "--requests", "1000000"),
    ),
)

AREAS: Final = {
    "Triton": _TRITON,
    "Artifacts": _ARTIFACTS,
    "Replicas and store": _REPLICAS,
    "MLflow, Feast, Redis": _SERVICES,
    "Dagster": _DAGSTER,
    "HTTP and access": _ACCESS,
    "Releases": _RELEASES,
    "Protocol": _PROTOCOL,
}
CASES: Final = tuple(case for cases in AREAS.values() for case in cases)
