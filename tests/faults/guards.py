"""Guards of the product, each with the text that takes its place and the test that must miss it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Removal:
    """A guard in a file, the text without it, and the test that must miss it.

    `case` is the name of one of `cases.CASES`. `guard` stands in the file once.
    """

    case: str
    file: str
    guard: str
    without: str
    test: str


_KILLED: Final = "tests/faults/test_killed_runs.py::test_a_run_"
_RELEASES: Final = "tests/faults/test_releases.py::test_"
_GATEWAY: Final = "tests/integration/test_gateway_"
_LOADING: Final = "tests/integration/test_serving_loading.py::test_"
_OF_FILES: Final = "tests/unit/test_model_repository.py::test_"
_REPOSITORY: Final = "platform_assets/resources/model_repository.py"
_INFERENCE: Final = "serving_gateway/inference/"
_REPLICATION: Final = "serving_gateway/replication/"
_HTTP: Final = "serving_gateway/http/"
_WATCHER: Final = _REPLICATION + "watcher.py"

_PERSISTED_BEFORE_READY: Final = (
    "platform_assets/serving/loading.py",
    "            triton.everywhere(self.load)\n"
    "            ready = triton.ready_anywhere(self._name)\n",
    "            ready = (*triton.ready_anywhere(self._name), self._version)\n"
    "            self._repository.persist_config(self._name, to_text(self.config(ready)))\n"
    "            triton.everywhere(self.load)\n",
)

_TRITON: Final = (
    Removal(
        "kill -9 under load",
        "serving_gateway/triton/version_state.py",
        "        self.server.mark_reachable()\n        self.note(response.status == 200)",
        "        self.note(response.status == 200)",
        _GATEWAY + "faults.py::test_the_loss_of_triton_is_answered_at_once_and_heals_by_itself",
    ),
    Removal(
        "SIGTERM",
        *_PERSISTED_BEFORE_READY,
        "tests/faults/test_triton_signals.py"
        "::test_sigterm_during_a_load_leaves_what_served_and_the_load_converges",
    ),
    Removal(
        "SIGSTOP",
        _INFERENCE + "version_client.py",
        "            self.batcher.refuse_waiting(self.state.unavailable())",
        "            pass",
        "tests/faults/test_triton_signals.py"
        "::test_a_stopped_triton_costs_clients_a_second_at_most_and_comes_back_by_itself",
    ),
    Removal(
        "restart of one of two under load",
        "serving_gateway/triton/inference_call.py",
        "            or not cluster.take_retry()\n",
        "            or cluster.take_retry()\n",
        "tests/integration/test_triton_losses.py"
        "::test_a_planned_restart_of_either_server_fails_no_request",
    ),
    Removal(
        "candidate that was not persisted, or whose files are broken",
        *_PERSISTED_BEFORE_READY,
        _LOADING + "a_triton_that_dies_after_a_bad_candidate_serves_exactly_what_served",
    ),
    Removal(
        "concurrent control calls",
        _REPLICATION + "file_store.py",
        "                require_unchanged(self._look_up(name), expected)\n",
        "",
        _GATEWAY + "reload.py::test_fifty_concurrent_changes_by_two_processes_lose_none",
    ),
    Removal(
        "overload",
        "serving_gateway/batching.py",
        "if self._queued >= self._max_queued:",
        "if False:",
        "tests/faults/test_overload.py"
        "::test_overload_is_shed_at_once_and_what_is_accepted_is_answered_in_time",
    ),
    Removal(
        "switches under load",
        _INFERENCE + "dispatcher.py",
        "            or not isinstance(error, VariantUnavailable)\n",
        "            or isinstance(error, VariantUnavailable)\n",
        "tests/unit/test_dispatcher.py"
        "::test_request_whose_version_is_retired_meanwhile_gets_the_next",
    ),
)

_ARTIFACTS: Final = (
    Removal(
        "truncated, bit-flipped, digest changed",
        _REPOSITORY,
        "if digest != provenance.onnx_sha256:",
        "if False:",
        _OF_FILES + "bytes_that_are_not_those_recorded_are_not_packaged",
    ),
    Removal(
        "wrong shape, NaN, another answer than scikit-learn's",
        "platform_assets/export/parity.py",
        "np.where(np.isnan(distance), np.inf, distance)",
        "distance",
        "tests/unit/test_export_parity.py::test_nan_is_no_parity",
    ),
    Removal(
        "ONNX with data outside its folder, graphs that exhaust the machine",
        "platform_assets/export/sandbox.py",
        "        wanted[resource.RLIMIT_AS] = in_use + memory_bytes\n",
        "        pass\n",
        "tests/integration/test_adoption.py"
        "::test_a_graph_that_would_take_the_machine_down_is_refused",
    ),
    Removal(
        "publisher killed at every operation on files",
        _REPOSITORY,
        "                staging.rename(target)\n            except",
        "                shutil.copytree(staging, target)\n            except",
        "tests/faults/test_publishing.py"
        "::test_publisher_killed_at_every_step_leaves_nothing_or_all_and_another_finishes",
    ),
    Removal(
        "two publishers of one version",
        _REPOSITORY,
        "            self._same_or_conflict(target, provenance)\n",
        "",
        "tests/faults/test_publishing.py"
        "::test_of_publishers_of_one_version_one_wins_and_none_mixes",
    ),
    Removal(
        "full disk",
        _REPLICATION + "record_files.py",
        "        # A full disk has no room for half a record either.\n"
        "        staged.unlink(missing_ok=True)\n",
        "",
        "tests/faults/test_publishing.py::test_full_disk_refuses_changes_and_no_prediction",
    ),
    Removal(
        "hostile names",
        _REPOSITORY,
        "check_model_name(model_name) / str(version)",
        "model_name / str(version)",
        _OF_FILES + "a_name_that_could_leave_the_repository_is_refused",
    ),
)

_REPLICAS: Final = (
    Removal(
        "a replica that does not follow",
        "platform_assets/serving/switching.py",
        "if convergence.behind:",
        "if False:",
        "tests/integration/test_gates.py::test_the_switch_is_not_done_before_every_replica_follows",
    ),
    Removal(
        "rollbacks by four replicas under load",
        _WATCHER,
        "        if merged.record is not known:\n",
        "        if merged.write:\n",
        _GATEWAY + "drills.py::test_twenty_rollbacks_fail_no_request_and_reach_all_replicas",
    ),
    Removal(
        "switches two seconds apart",
        _WATCHER,
        "            self._announced.put_nowait(model_name)\n",
        "            pass\n",
        "tests/unit/test_gateway_watcher.py"
        "::test_an_announcement_is_followed_without_waiting_for_the_interval",
    ),
    Removal(
        "clients that disconnect, slow and silent connections",
        _HTTP + "connection.py",
        "            if error := self._unfinished.check_timeout("
        "now, in_head=self._part == _HEAD):\n"
        "                self.refuse(error)",
        "            pass",
        "tests/faults/test_clients.py::test_slow_clients_are_ended_in_time_and_delay_no_other",
    ),
    Removal(
        "store down, stopped, down at the start",
        _REPLICATION + "redis_store.py",
        "if now[1] * 1000000 + now[2] > tonumber(ARGV[3]) then return -1 end\n",
        "",
        _GATEWAY + "redis_store.py::test_a_change_that_was_abandoned_does_not_happen_later",
    ),
    Removal(
        "corrupt records, stale writers, lost commits",
        _REPLICATION + "redis_store.py",
        "answers: list[_Data] = await question.execute(raise_on_error=False)",
        "answers: list[_Data] = await question.execute()",
        _GATEWAY + "convergence.py::test_a_corrupt_key_affects_its_own_model_only",
    ),
    Removal(
        "activator killed between READY and commit, and before the acknowledgement",
        "serving_gateway/control/record_writer.py",
        "if changed is base and not merged.write:",
        "if False:",
        "tests/faults/test_activation.py"
        "::test_activation_whose_replica_dies_around_the_commit_happens_once",
    ),
)

_SERVICES: Final = (
    Removal(
        "killed, stopped, slow, erroring",
        "serving_gateway/control/provenance.py",
        "held = _on_record(record, model_name, version)",
        "held = None if _on_record else None",
        _GATEWAY + "reload.py::test_a_reload_works_without_mlflow_by_what_is_on_record",
    ),
    Removal(
        "alias or version moved manually",
        "platform_assets/serving/reconcile.py",
        "            if difference:\n",
        "            if difference.lost:\n",
        "tests/integration/test_reconcile.py::test_a_version_loaded_from_outside_is_unloaded",
    ),
    Removal(
        "other features, or another order of them",
        "serving_gateway/control/provenance.py",
        "    if wanted not in {None, found}:\n",
        "    if not found:\n",
        "tests/unit/test_gateway_control_plane.py"
        "::test_other_features_than_the_caller_names_are_refused",
    ),
    Removal(
        "hostile sources and pickles",
        "platform_assets/features/sources/casting.py",
        r"""    r"ELSE TRY_CAST(regexp_extract({t}, '^([+-]?[0-9]+)(\.0*)?$', 1) AS BIGINT) END"
""",
        '    "ELSE TRY_CAST({t} AS BIGINT) END"\n',
        "tests/integration/test_hostile_sources.py"
        "::test_a_source_trains_or_is_refused_with_its_place",
    ),
)

_DAGSTER: Final = (
    Removal(
        "run worker killed at every asset",
        "platform_assets/resources/mlflow.py",
        "        if existing is not None:\n            return existing\n        source",
        "        source",
        _KILLED + "killed_at_every_asset_and_resumed_does_each_thing_once",
    ),
    Removal(
        "two runs at once",
        "platform_assets/serving/turns.py",
        "        if wants and not others:\n",
        "        if wants:\n",
        "tests/integration/test_turns.py::test_a_step_takes_the_turns_that_it_needs",
    ),
    Removal(
        "daemon down for minutes",
        "platform_assets/attempts.py",
        'run_key=f"{fingerprint} after {after}"',
        'run_key=f"{fingerprint} at {time.time()}"',
        "tests/unit/test_automation.py::test_files_are_read_only_when_their_size_or_time_differs",
    ),
    Removal(
        "cancellation during publishing",
        _REPOSITORY,
        "            shutil.rmtree(staging, ignore_errors=True)\n        return True",
        "            pass\n        return True",
        _KILLED + "canceled_while_it_publishes_or_switches_leaves_nothing_half_done",
    ),
)

_ACCESS: Final = (
    Removal(
        "generated requests",
        _HTTP + "error_handlers.py",
        "(GatewayError, RequestValidationError, HTTPException, ClientGone, Exception)",
        "(GatewayError, HTTPException, ClientGone, Exception)",
        _GATEWAY + "openapi.py::test_no_generated_request_meets_a_bug_or_an_undescribed_answer",
    ),
    Removal(
        "bombs, 100 MB, 1e6 rows, deep JSON, NaN, ragged rows, chunks of a byte",
        _HTTP + "bodies.py",
        "        unpacked = stream.decompress(body, limit + 1)\n",
        "        unpacked = stream.decompress(body)\n",
        "tests/faults/test_abuse.py::test_abuse_is_refused_without_memory_and_answers_go_on",
    ),
    Removal(
        "request smuggling",
        _HTTP + "request_head.py",
        "        if names.count(name) > 1:\n",
        "        if not names:\n",
        "tests/unit/test_connection.py::test_ambiguous_request_is_refused_and_the_connection_ends",
    ),
    Removal(
        "every route without, or with a wrong credential",
        _HTTP + "security.py",
        "        elif name is None:\n",
        "        elif False:\n",
        "tests/unit/test_route_access.py::test_control_route_refuses_all_but_a_token",
    ),
    Removal(
        "Triton's admin APIs, on HTTP and gRPC",
        "platform_assets/local_stack/triton_server.py",
        '        f"--http-restricted-api={locked}:{CONTROL_HEADER}={control_key}",\n',
        "",
        "tests/integration/test_triton_lifecycle.py"
        "::test_what_changes_the_server_is_locked_over_http",
    ),
    Removal(
        "secrets in logs, errors and spans",
        _REPLICATION + "redis_connection.py",
        '"Redis at {redis_place(url.get_secret_value())}"',
        '"Redis at {url.get_secret_value()}"',
        _GATEWAY + "redis_store.py::test_a_redis_that_is_gone_is_reported_without_its_password",
    ),
    Removal(
        "rotation of keys and tokens under load",
        _HTTP + "security.py",
        "            for known, name in self._tokens.items():\n",
        "            for known, name in [*self._tokens.items()][:1]:\n",
        "tests/faults/test_rotation.py"
        "::test_no_caller_with_a_valid_secret_is_refused_and_no_secret_is_shown",
    ),
)

_OF_RELEASES: Final = (
    Removal(
        "a candidate that fails or disappears, abort, the store lost",
        "serving_gateway/control/release_watch.py",
        "            await self._end(release, ",
        "            log.info(",
        "tests/unit/test_release_watch.py"
        "::test_a_failing_candidate_loses_its_share_without_a_failed_request",
    ),
    Removal(
        "a flood of outcomes",
        "serving_gateway/telemetry/outcome_files.py",
        "        if size < _LARGE_BYTES:",
        "        if path.stat().st_size < _LARGE_BYTES:",
        "tests/unit/test_outcome_files.py::test_files_are_large_by_what_they_take_in_memory",
    ),
    Removal(
        "other changes, two releases at once, an approval during a restart",
        "serving_gateway/control/record_writer.py",
        "settled = settle(base, changed, format_time(moment), by, reason)",
        "settled = changed",
        _RELEASES + "another_change_ends_the_release_for_all_clients",
    ),
    Removal(
        "a version that fails for some clients, on a whole stack (`make release-demo`)",
        _INFERENCE + "dispatcher.py",
        "            request.count_failure(error, is_answered_elsewhere=True)\n",
        "",
        "tests/unit/test_release_watch.py"
        "::test_a_failing_candidate_loses_its_share_without_a_failed_request",
    ),
    Removal(
        "twelve bad and six good candidates under load",
        _INFERENCE + "dispatcher.py",
        "        if request.is_split and isinstance(error, _FALLBACK):\n",
        "        if request.is_split and isinstance(error, TooLarge):\n",
        _RELEASES + "candidate_ends_as_it_deserves_and_no_client_notices",
    ),
    Removal(
        "every process killed in every step, clocks that jump",
        "serving_gateway/control/release_control.py",
        "                router.withdraw(release.id)\n",
        "",
        _RELEASES + "stop_without_the_store_is_in_effect_at_once_and_written_later",
    ),
    Removal(
        "every process killed in every step, clocks that jump",
        "serving_gateway/control/release_watch.py",
        "await self.store.put(name, self.process_id, evidence, has_ended=has_ended)",
        "pass",
        _RELEASES + "what_a_killed_replica_had_counted_is_not_lost",
    ),
)

_PROTOCOL: Final = (
    Removal(
        "state machine over real processes",
        _WATCHER,
        "        if merged.write:\n",
        "        if not merged:\n",
        "tests/faults/test_real_protocol.py::test_no_step_of_real_processes_breaks_an_invariant",
    ),
    Removal(
        "histories of clients while the network is partitioned",
        _WATCHER,
        "            self._note(error.message)\n",
        "",
        "tests/faults/test_partitions.py"
        "::test_replica_cut_off_from_the_store_answers_by_what_it_has_says_so_and_follows",
    ),
    Removal(
        "endurance",
        _WATCHER,
        "                lost[name] = copy\n",
        "                self.losses.report_drop(copy, stored)\n",
        "tests/faults/test_endurance.py"
        "::test_switches_and_restarts_fail_no_request_and_leave_nothing_behind",
    ),
    Removal(
        "a million requests",
        "serving_gateway/batching.py",
        "        self._budget.release(item.size)\n",
        "",
        "tests/unit/test_batching.py::test_queue_is_bounded_in_items_and_in_bytes",
    ),
)

REMOVALS: Final = (
    *(*_TRITON, *_ARTIFACTS, *_REPLICAS, *_SERVICES),
    *(*_DAGSTER, *_ACCESS, *_OF_RELEASES, *_PROTOCOL),
)

REMOVED_BY_TESTS: Final = {
    "rolling restarts under load": "tests/faults/test_rolling_updates.py"
    "::test_without_the_pre_stop_hook_requests_fail",
    "state machine over the pure code": "tests/faults/test_protocol_model.py"
    "::test_model_notices_loss_of_guard",
    "histories of clients": "tests/faults/test_histories.py::test_checker_notices_planted_bug",
}
"""Cases of which a test of CI removes the guards itself."""
