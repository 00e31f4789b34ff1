"""Which failures a step is tried again for."""

from __future__ import annotations

import errno

import dagster as dg
import pytest

from platform_assets.intervals import RETRY_SECONDS, retry_seconds
from platform_assets.resources import failures
from platform_assets.resources.failures import RETRIES, TRANSIENT, as_failure, failure, is_transient
from platform_assets.resources.gateway import GatewayRefused, GatewayUnavailable
from platform_assets.resources.mlflow_client import MlflowUnavailable, RegistryError
from platform_assets.resources.triton_api import TritonRefused, TritonUnreachable


def attempts(ends: Exception | bool, succeeds_at: int = 0) -> tuple[int, dg.ExecuteInProcessResult]:
    """Run a step that fails, by a failure that may pass or by this exception; count its tries."""
    made = []

    @dg.op
    def step() -> None:
        made.append(1)
        if len(made) == succeeds_at:
            return
        if isinstance(ends, Exception):
            raise ends
        raise failure("Triton is away", "wait", allow_retries=ends) from OSError("refused")

    @dg.job
    def job() -> None:
        step()

    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    return len(made), result


def test_a_server_that_comes_back_ends_no_run() -> None:
    tried, result = attempts(True, succeeds_at=3)
    assert (tried, result.success) == (3, True)


def test_the_last_try_says_what_to_do() -> None:
    tried, result = attempts(True)
    assert tried == RETRIES + 1
    data = result.failure_data_for_node("step")
    assert data is not None
    assert data.user_failure_data is not None
    assert "What to do: wait" in str(data.user_failure_data.description)
    assert data.user_failure_data.metadata[TRANSIENT].value is True


@pytest.mark.parametrize("ends", [False, ValueError("a mistake in the code")])
def test_what_does_not_pass_by_itself_is_not_tried_again(ends: Exception | bool) -> None:
    assert attempts(ends)[0] == 1


def test_each_pause_is_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "retry_seconds", lambda: 0.01)
    retries = [one for one in attempts(True)[1].all_events if one.is_step_up_for_retry]
    assert [one.step_retry_data.seconds_to_wait for one in retries] == [0.01, 0.02, 0.04]


def test_outside_a_step_a_failure_is_only_built() -> None:
    assert failure("Triton is away", "wait", allow_retries=True).allow_retries


def test_seconds_of_retries_are_a_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRY_SECONDS, "soon")
    with pytest.raises(ValueError, match="from 0"):
        retry_seconds()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (MlflowUnavailable("gone"), True),
        (RegistryError("no such run"), False),
        (GatewayUnavailable("gone"), True),
        (GatewayRefused("busy", status=503, code="unavailable"), True),
        (GatewayRefused("pinned", status=409, code="variant_pinned"), False),
        (TritonUnreachable("gone"), True),
        (TritonRefused("not so", status=400, reason="bad"), False),
    ],
)
def test_a_server_that_is_away_may_come_back_and_a_refusal_stands(
    error: Exception, passes: bool
) -> None:
    assert is_transient(error) is passes


def test_error_of_a_block_fails_the_step_with_what_is_still_true() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(dg.Failure) as caught,
        as_failure("the proof cannot be written", "make room.", OSError, still_true="It serves."),
    ):
        raise full
    said = caught.value.description or ""
    assert "The proof cannot be written: [Errno 28] No space left on device" in said
    assert "It serves." in said
    assert "make room" in said
    assert not caught.value.allow_retries
    assert caught.value.__cause__ is full
    with pytest.raises(LookupError), as_failure("unused", "unused", OSError):
        raise LookupError
