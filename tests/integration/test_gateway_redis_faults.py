"""The gateway while the Redis that keeps its record is lost, hangs or lies: I8, I9, I12."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from serving_gateway.contract import DEFAULT_MODEL, RoutingRecord
from tests.support.gateway_harness import Client, RunningGateway, run_gateway, serve_versions
from tests.support.onnx_models import telltale, write_entry
from tests.support.servers import RunningRedis, RunningTriton, run_triton, wait_until

KEY = f"gateway:{{{DEFAULT_MODEL}}}:routing"


@pytest.fixture
def gateway(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> Iterator[RunningGateway]:
    """A gateway on Redis that routes A to version 1."""
    with on_redis(tmp_path, shared_triton, redis) as running:
        running.routed(1)
        yield running


@contextlib.contextmanager
def on_redis(
    state_dir: Path, triton: RunningTriton, redis: RunningRedis, **settings: str
) -> Iterator[RunningGateway]:
    env = {"GATEWAY_REDIS_URL": redis.url, **settings}
    with run_gateway(state_dir, triton.http_url, env=env) as running:
        yield running


def stored(redis: RunningRedis) -> RoutingRecord:
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        return msgspec.json.decode(client.get(KEY) or b"", type=RoutingRecord)


def is_stored(redis: RunningRedis) -> bool:
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        return bool(client.exists(KEY))


def put(redis: RunningRedis, content: bytes) -> None:
    from redis import Redis

    with Redis.from_url(redis.url) as client:
        client.set(KEY, content)


def assert_refused_for_the_store(answer: httpx.Response, version: int) -> None:
    body = answer.json()
    assert (answer.status_code, body["code"]) == (503, "store_unavailable"), answer.text
    assert "Redis at 127.0.0.1" in body["error"]
    assert body["still_served"] == {"A": version}
    assert answer.headers["retry-after"]


def test_a_killed_redis_fails_no_request_and_gets_back_what_it_lost(
    gateway: RunningGateway, redis: RunningRedis
) -> None:
    with Client(gateway.url, pause_s=0.01) as client:
        client.waits_for(lambda answer: answer == (200, 1))
        redis.process.kill()
        assert_refused_for_the_store(gateway.reload(version=2, run_id="run-2"), 1)
        assert_refused_for_the_store(gateway.traffic("off", 0), 1)
        wait_until(lambda: gateway.models()["routing"]["store_problem"], 5, "the problem is seen")
        assert gateway.ready()
        redis.process.start()  # as empty as a cache without persistence starts
        wait_until(lambda: not gateway.models()["routing"]["store_problem"], 5, "Redis is back")
        wait_until(lambda: is_stored(redis), 10, "what it lost is written back")
        assert stored(redis).generation == 1
        gateway.routed(2)
        client.waits_for(lambda answer: answer == (200, 2))
    assert {status for status, _ in client.answers} == {200}


def test_a_stopped_redis_delays_no_request_and_no_refused_change_happens_later(
    gateway: RunningGateway, redis: RunningRedis
) -> None:
    redis.process.signal(signal.SIGSTOP)
    try:
        with Client(gateway.url, pause_s=0.01) as client:
            for _ in range(3):
                started = time.monotonic()
                assert_refused_for_the_store(gateway.reload(version=2, run_id="run-2"), 1)
                assert time.monotonic() - started < 3
            client.waits_for(lambda answer: answer == (200, 1))
        assert {status for status, _ in client.answers} == {200}
        # Whoever waits for Redis waits for the whole limit.
        assert max(client.seconds) < 0.5
        # Only once the gateway has seen it can it see that it is over.
        wait_until(lambda: gateway.models()["routing"]["store_problem"], 5, "the problem is seen")
    finally:
        redis.process.signal(signal.SIGCONT)
    wait_until(lambda: not gateway.models()["routing"]["store_problem"], 5, "Redis is back")
    # None of the refused reloads happened after all.
    assert stored(redis).generation == 1
    gateway.routed(2)


def test_a_stopped_redis_does_not_delay_the_look_at_triton(
    tmp_path: Path, repository: Path, redis: RunningRedis
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with (
        run_triton(repository, tmp_path) as triton,
        on_redis(tmp_path, triton, redis, GATEWAY_STORE_SECONDS="5") as gateway,
    ):
        gateway.routed(1)
        redis.process.signal(signal.SIGSTOP)
        try:
            # Nobody asks the gateway for a prediction: only its own look can notice.
            serve_versions(triton, 2)
            wait_until(lambda: not gateway.ready(), 4, "the retired version is noticed meanwhile")
            serve_versions(triton, 1, 2)
            wait_until(gateway.ready, 5, "the version that is back is noticed")
        finally:
            redis.process.signal(signal.SIGCONT)


@pytest.mark.parametrize("content", [b"{", b'{"schema":99}', b'{"model_name":"other","schema":1}'])
def test_a_record_that_cannot_be_trusted_is_refused_and_the_last_good_one_kept(
    gateway: RunningGateway, redis: RunningRedis, content: bytes
) -> None:
    put(redis, content)
    wait_until(lambda: gateway.models()["routing"]["store_problem"], 5, "the problem is seen")
    assert gateway.ready()
    assert gateway.predict().json()["version"] == 1
    refused = gateway.reload(version=2, run_id="run-2")
    assert (refused.status_code, refused.json()["code"]) == (503, "record_refused")


def test_a_start_without_the_store_and_without_a_snapshot_is_not_ready(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    redis.process.kill()
    with on_redis(tmp_path, shared_triton, redis) as gateway:
        answer = gateway.client.get("/ready")
        assert answer.status_code == 503
        assert "Redis at 127.0.0.1" in answer.text
        assert gateway.predict().status_code == 503
        redis.process.start()
        wait_until(lambda: "no version was ever loaded" in gateway.client.get("/ready").text, 5, "")
        gateway.routed(1)
        assert gateway.ready()


def test_a_new_replica_without_the_store_guesses_nothing_and_recovers_with_it(
    gateway: RunningGateway, tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    redis.process.signal(signal.SIGSTOP)
    try:
        with on_redis(tmp_path / "new pod", shared_triton, redis) as new:
            answer = new.client.get("/ready")
            assert answer.status_code == 503
            (reason,) = answer.json()["reasons"]
            assert "what is in production is not known here" in reason
            assert "no snapshot to resume from. Redis at 127.0.0.1" in reason
            assert reason in new.client.get(f"/models/{DEFAULT_MODEL}/ready").json()["reasons"][0]
            # Triton has versions READY and another replica serves one; neither is taken for it.
            assert gateway.predict().json()["version"] == 1
            assert new.predict().status_code == 503
            refused = new.reload(version=2, run_id="run-2")
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert refused.json()["still_served"] == {}
            redis.process.signal(signal.SIGCONT)
            returned = time.monotonic()
            wait_until(new.ready, 5, "it has read the record")
            # The watch interval, the limit of a question that was under way, and the probe.
            assert time.monotonic() - returned < 1.5
            assert new.predict().json()["version"] == 1
            assert stored(redis).generation == 1
    finally:
        redis.process.signal(signal.SIGCONT)


def test_a_start_without_the_store_resumes_what_triton_still_confirms(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with on_redis(tmp_path, shared_triton, redis) as gateway:
        gateway.routed(2)
        snapshot = gateway.state_dir / f"snapshot-{DEFAULT_MODEL}.json"
        wait_until(snapshot.exists, 5, "the snapshot is kept")
    redis.process.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with on_redis(tmp_path, shared_triton, redis) as gateway:
            assert time.monotonic() - started < 30, "the start waits for no answer"
            assert gateway.ready()
            assert gateway.predict().json()["version"] == 2
            assert gateway.models()["routing"]["store_problem"]
    finally:
        redis.process.signal(signal.SIGCONT)


def test_a_start_without_the_store_is_not_ready_where_triton_disagrees_with_the_snapshot(
    tmp_path: Path, repository: Path, redis: RunningRedis
) -> None:
    write_entry(repository, DEFAULT_MODEL, {1: telltale(1), 2: telltale(2)})
    with run_triton(repository, tmp_path) as triton:
        with on_redis(tmp_path, triton, redis) as gateway:
            gateway.routed(1)
            snapshot = gateway.state_dir / f"snapshot-{DEFAULT_MODEL}.json"
            wait_until(snapshot.exists, 5, "the snapshot is kept")
        redis.process.kill()
        serve_versions(triton, 2)
        with on_redis(tmp_path, triton, redis) as gateway:
            answer = gateway.client.get(f"/models/{DEFAULT_MODEL}/ready")
            assert answer.status_code == 503
            assert "version 1" in answer.text
            assert gateway.predict().status_code == 503
            serve_versions(triton, 1, 2)
            wait_until(gateway.ready, 5, "Triton agrees again")


def test_a_snapshot_never_overrides_a_store_that_answers(
    tmp_path: Path, shared_triton: RunningTriton, redis: RunningRedis
) -> None:
    with on_redis(tmp_path, shared_triton, redis) as gateway:
        gateway.routed(1)
        gateway.routed(2)
        snapshot = gateway.state_dir / f"snapshot-{DEFAULT_MODEL}.json"
        wait_until(snapshot.exists, 5, "the snapshot is kept")
    # Of another life of the store, in which more had happened.
    kept = stored(redis)
    variants = {"A": kept.previous["A"][0]}
    old = msgspec.structs.replace(kept, generation=50, variants=variants)
    snapshot.write_bytes(msgspec.json.encode(old))
    with on_redis(tmp_path, shared_triton, redis) as gateway:
        assert gateway.predict().json()["version"] == 2
        assert stored(redis).generation == 2
