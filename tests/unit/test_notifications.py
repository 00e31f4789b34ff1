"""What the webhook gets to hear, received by a server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from platform_assets.notifications import UI_VARIABLE, check_warnings, run_failure
from platform_assets.resources.failures import failure
from platform_assets.resources.redaction import redact_secrets
from platform_assets.resources.webhook import (
    URL_VARIABLE,
    MessageRejected,
    WebhookError,
    WebhookResource,
)

SECRET = "T00/B00/hush-hush"


@dataclass
class Receiver:
    """A webhook; `status` is what it answers, once what is in `first` was answered."""

    url: str = ""
    status: int = 200
    first: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.first.pop(0) if receiver.first else receiver.status
            if status == 200:
                assert self.path == f"/services/{SECRET}"
                receiver.texts.append(json.loads(body)["text"])
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as opened:
        yield opened


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setenv(UI_VARIABLE, "http://dagster.example:3000/")
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def ticked(
    sensor: Any, instance: dg.DagsterInstance, webhook: WebhookResource, cursor: str | None
) -> Any:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"webhook": webhook}
    )
    return sensor.evaluate_tick(context)


def ran(instance: dg.DagsterInstance, **outcome: Any) -> str:
    """Run a chain of one asset, one gate and one check that warns; return the run's id."""

    @dg.asset(key=["shop", "trained"])
    def trained() -> None:
        if outcome.get("raises"):
            raise outcome["raises"]

    @dg.asset_check(asset=trained, blocking=True)
    def floor() -> dg.AssetCheckResult:
        passed = outcome.get("gate", True)
        return dg.AssetCheckResult(passed=passed, description="0.61 is below the floor <0.9>")

    @dg.asset_check(asset=trained)
    def drift() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=outcome.get("check", True),
            severity=dg.AssetCheckSeverity.WARN,
            description="age (0.31 > 0.2)",
        )

    @dg.asset(key=["shop", "registered"], deps=[trained])
    def registered() -> None:
        pass

    job = dg.define_asset_job("shop_chain", selection=dg.AssetSelection.all())
    definitions = dg.Definitions(
        assets=[trained, registered], asset_checks=[floor, drift], jobs=[job]
    )
    chain = definitions.resolve_job_def("shop_chain")
    return chain.execute_in_process(instance=instance, raise_on_error=False).run_id


def run_and_tick(
    sensor: Any, instance: dg.DagsterInstance, receiver: Receiver, **outcome: Any
) -> Any:
    """Run the chain between two ticks; return its id and the second tick."""
    webhook = WebhookResource(url=receiver.url)
    first = ticked(sensor, instance, webhook, None)
    run_id = ran(instance, **outcome)
    return run_id, ticked(sensor, instance, webhook, first.cursor)


def test_a_failed_run_is_reported_with_its_step_reason_and_link(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    reason = failure("MLflow at http://m:5000 does not answer", "start MLflow")
    run_id, _ = run_and_tick(run_failure, instance, receiver, raises=reason)
    [text] = receiver.texts
    assert text.startswith(":red_circle: *shop_chain* failed (model shop)\n")
    assert "Step `shop__trained`: MLflow at http://m:5000 does not answer. Nothing changed" in text
    assert "What to do: start MLflow." in text
    assert f"<http://dagster.example:3000/runs/{run_id}|Run {run_id[:8]}>" in text


def test_the_root_of_an_unforeseen_error_is_sent_without_its_trace(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    run_and_tick(run_failure, instance, receiver, raises=ValueError("row 900000 is odd"))
    [text] = receiver.texts
    assert "ValueError: row 900000 is odd" in text
    assert "Traceback" not in text
    assert ".py" not in text


def test_a_gate_that_blocked_is_named_with_its_numbers(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    run_and_tick(run_failure, instance, receiver, gate=False, check=False)
    [text] = receiver.texts
    assert "Gate `floor` of shop/trained: 0.61 is below the floor &lt;0.9&gt;" in text
    assert "drift" not in text


def test_a_run_that_was_ended_from_outside_is_reported_too(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    webhook = WebhookResource(url=receiver.url)
    first = ticked(run_failure, instance, webhook, None)
    run = instance.create_run_for_job(_lonely)
    instance.report_run_failed(run, "the worker of the run vanished")
    ticked(run_failure, instance, webhook, first.cursor)
    [text] = receiver.texts
    assert "No step failed: the worker of the run vanished" in text


def test_a_canceled_run_is_reported_in_the_order_of_events(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    webhook = WebhookResource(url=receiver.url)
    first = ticked(run_failure, instance, webhook, None)
    before, canceled, after = (instance.create_run_for_job(_lonely) for _ in range(3))
    instance.report_run_failed(before)
    instance.report_run_canceled(canceled, "ada clicked")
    instance.report_run_failed(after)
    tick = ticked(run_failure, instance, webhook, first.cursor)
    assert tick.skip_message == "reported 3 of 3 runs"
    assert [before.run_id in receiver.texts[0], after.run_id in receiver.texts[2]] == [True, True]
    assert receiver.texts[1].startswith(":no_entry_sign: *_lonely* was canceled\nada clicked\n")
    assert canceled.run_id in receiver.texts[1]


def test_a_message_that_the_webhook_rejects_holds_up_no_other(
    tmp_path: Path, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook = WebhookResource(url=receiver.url)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first = ticked(run_failure, instance, webhook, None)
        rejected, taken = (ran(instance, gate=False) for _ in range(2))
        receiver.first = [400]
        tick = ticked(run_failure, instance, webhook, first.cursor)
        assert ticked(run_failure, instance, webhook, tick.cursor).skip_message == "nothing new"
    [text] = receiver.texts
    assert taken in text
    assert tick.skip_message == "reported 1 of 2 runs"
    [line] = [one for one in capfd.readouterr().err.split("\n") if "is not reported" in one]
    assert f"run {rejected} is not reported: the webhook at 127.0.0.1 refused" in line


@pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 503])
def test_a_webhook_that_asks_for_patience_gets_the_message_later(
    receiver: Receiver, status: int
) -> None:
    receiver.first = [status]
    with pytest.raises(WebhookError) as caught:
        WebhookResource(url=receiver.url).post("hello")
    assert not isinstance(caught.value, MessageRejected)


def test_a_message_is_of_bounded_length_and_keeps_its_head_and_link(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    @dg.op(out=dg.DynamicOut())
    def deal() -> Iterator[dg.DynamicOutput[int]]:
        yield from (dg.DynamicOutput(n, mapping_key=str(n)) for n in range(40))

    @dg.op
    def fail(n: int) -> None:
        raise dg.Failure(description=f"{n} " + "&" * 50_000)

    @dg.job
    def wide() -> None:
        deal().map(fail)

    webhook = WebhookResource(url=receiver.url)
    first = ticked(run_failure, instance, webhook, None)
    run_id = wide.execute_in_process(instance=instance, raise_on_error=False).run_id
    ticked(run_failure, instance, webhook, first.cursor)
    [text] = receiver.texts
    lines = text.split("\n")
    assert len(text) < 4000
    assert lines[0] == ":red_circle: *wide* failed"
    assert lines[1].startswith("Step `fail[")
    assert lines[-2] == f"… and {40 - (len(lines) - 3)} more, which the run shows"
    assert run_id in lines[-1]


def test_a_check_that_warns_is_reported_when_the_run_succeeds(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    run_and_tick(check_warnings, instance, receiver, check=False)
    [text] = receiver.texts
    assert text.startswith(":warning: *shop_chain* went through, but checks warn (model shop)\n")
    assert "Check `drift` of shop/trained: age (0.31 &gt; 0.2)" in text


def test_reason_with_bytes_that_are_no_text_is_reported_and_holds_up_no_other(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    reason = "cannot read caf\udce9.csv"
    _, tick = run_and_tick(run_failure, instance, receiver, raises=ValueError(reason))
    assert "cannot read caf?.csv" in receiver.texts[0]
    ran(instance, raises=ValueError("another"))
    ticked(run_failure, instance, WebhookResource(url=receiver.url), tick.cursor)
    assert "another" in receiver.texts[1]


def test_a_clean_run_is_not_reported(instance: dg.DagsterInstance, receiver: Receiver) -> None:
    _, tick = run_and_tick(check_warnings, instance, receiver)
    assert receiver.texts == []
    assert tick.skip_message == "reported 0 of 1 runs"


def test_a_run_is_reported_once(instance: dg.DagsterInstance, receiver: Receiver) -> None:
    _, tick = run_and_tick(run_failure, instance, receiver, gate=False)
    again = ticked(run_failure, instance, WebhookResource(url=receiver.url), tick.cursor)
    assert len(receiver.texts) == 1
    assert again.skip_message == "nothing new"


def test_what_the_webhook_refused_is_sent_at_the_next_tick(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    receiver.status = 503
    _, refused = run_and_tick(run_failure, instance, receiver, gate=False)
    assert "the webhook at 127.0.0.1 refused the message (503); it is tried again" in str(
        refused.skip_message
    )
    receiver.status = 200
    ticked(run_failure, instance, WebhookResource(url=receiver.url), refused.cursor)
    assert len(receiver.texts) == 1


def test_what_was_not_taken_for_a_day_is_dropped(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = 503
    monkeypatch.setattr("platform_assets.notifications._STALE_S", -1.0)
    _, tick = run_and_tick(run_failure, instance, receiver, gate=False)
    receiver.status = 200
    again = ticked(run_failure, instance, WebhookResource(url=receiver.url), tick.cursor)
    assert receiver.texts == []
    assert again.skip_message == "nothing new"


def test_without_an_address_it_is_off_and_says_so(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    off = ticked(run_failure, instance, WebhookResource(), "0")
    assert URL_VARIABLE in str(off.skip_message)
    ran(instance, gate=False)
    still_off = ticked(run_failure, instance, WebhookResource(), off.cursor)
    on = ticked(run_failure, instance, WebhookResource(url=receiver.url), still_off.cursor)
    assert on.skip_message == "nothing new"
    assert receiver.texts == []


def test_the_address_may_come_from_the_environment(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, receiver.url)
    WebhookResource().post("hello")
    assert receiver.texts == ["hello"]


def test_what_happened_before_the_first_tick_is_not_reported(
    instance: dg.DagsterInstance, receiver: Receiver
) -> None:
    ran(instance, gate=False)
    webhook = WebhookResource(url=receiver.url)
    first = ticked(run_failure, instance, webhook, None)
    ticked(run_failure, instance, webhook, first.cursor)
    assert receiver.texts == []


def test_no_secret_is_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_CONTROL_TOKEN", "letmein-42")
    WebhookResource(url=receiver.url).post(
        "cannot open postgresql://shop:pa55@db/shop with letmein-42"
    )
    assert receiver.texts == ["cannot open postgresql://***@db/shop with ***"]
    for text in (
        "a://me:p@55/x@db/x",
        "a://db/x?user=me&Password=p@55",
        "a:///?odbc_connect=UID%3Dme%3BPWD%3Dp@55%3BX%3D1",
        "Driver=x;PWD=p@55;",
    ):
        assert "55" not in redact_secrets(text, {})
    assert redact_secrets("abc in HOME", {"HOME": "abc", "MY_TOKEN": "abc"}) == "abc in HOME"


def test_neither_half_a_secret_nor_an_escaped_one_is_sent(
    instance: dg.DagsterInstance, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "one&two&three")
    reason = dg.Failure(description=f"one&two&three {'x' * 980} one&two&three")
    run_and_tick(run_failure, instance, receiver, raises=reason)
    [text] = receiver.texts
    assert "one" not in text
    assert "*** xxx" in text


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/{SECRET}", f"nonsense/{SECRET}", f"http://[::/{SECRET}"]
)
def test_the_address_itself_is_never_sent(url: str) -> None:
    with pytest.raises(WebhookError) as caught:
        WebhookResource(url=url).post("hello")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_both_sensors_run_from_the_start_and_load() -> None:
    definitions = dg.Definitions(
        sensors=[run_failure, check_warnings], resources={"webhook": WebhookResource()}
    )
    dg.Definitions.validate_loadable(definitions)
    for sensor in (run_failure, check_warnings):
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING


@dg.op
def _idle() -> None:
    pass


@dg.job
def _lonely() -> None:
    _idle()
