"""Predictions by entity id: features out of a real Feast online store, or out of the request."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving_gateway.contract import DEFAULT_MODEL
from tests.benchmarks.entities import route_to
from tests.support.chain import FEATURE_ASSETS, Chain, new_chain
from tests.support.gateway_harness import RunningGateway, run_gateway
from tests.support.load import Answer, Load
from tests.support.onnx_models import iris_classifier, write_entry
from tests.support.servers import RunningRedis, RunningTriton, run_redis, run_triton, wait_until

PAYLOAD = [6.3, 3.3, 6.0, 2.5]
"""Of another class than entity 1."""
KNOWN, UNKNOWN = 1, 99_999


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    home = tmp_path_factory.mktemp("iris")
    write_entry(home / "repository", DEFAULT_MODEL, {1: iris_classifier()})
    with run_triton(home / "repository", home) as running:
        yield running


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    with run_redis(tmp_path_factory.mktemp("online")) as running:
        yield running


@contextlib.contextmanager
def run_on(chain: Chain, home: Path, triton: RunningTriton) -> Iterator[RunningGateway]:
    """A gateway whose record already routes to a version that names the feature service."""
    route_to(home / "gateway", chain)
    env = {"GATEWAY_FEAST_DIR": str(chain.feast.home), "GATEWAY_FEATURE_SECONDS": "0.2"}
    with run_gateway(home, triton.http_url, env=env) as gateway:
        gateway.wait_ready()
        yield gateway


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def chain(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    online: RunningRedis,
) -> Chain:
    """Features of 150 flowers in an online store."""
    home = tmp_path_factory.mktemp(f"chain-{request.param}")
    chain = new_chain(home, redis=online.url if request.param == "redis" else "")
    assert chain.run(*FEATURE_ASSETS).failures == {}
    return chain


@pytest.fixture(scope="module")
def gateway(
    chain: Chain, tmp_path_factory: pytest.TempPathFactory, triton: RunningTriton
) -> Iterator[RunningGateway]:
    with run_on(chain, tmp_path_factory.mktemp("gateway"), triton) as running:
        wait_for_features(running)
        yield running


def ask(gateway: RunningGateway, **body: Any) -> httpx.Response:
    return gateway.client.post("/predict", json=body)


def wait_for_features(gateway: RunningGateway) -> None:
    """A start waits for them a few seconds only; a busy machine takes longer to import Feast."""

    def is_found() -> bool:
        return ask(gateway, entity_id=KNOWN).status_code == 200

    wait_until(is_found, 90, "features")


def metric(gateway: RunningGateway, name: str, **labels: str) -> float:
    """A metric of now: the text of /metrics is used again for a second."""
    former = gateway.client.get("/metrics").text
    wait_until(lambda: gateway.client.get("/metrics").text != former, 10, "metrics of now")
    return gateway.metric(name, **labels)


def counted(gateway: RunningGateway) -> dict[str, int]:
    metric(gateway, "")
    return {
        source: int(gateway.metric("gateway_feature_source_total", source=source))
        for source in ("payload", "feast", "fallback")
    }


def stored_row(chain: Chain, entity: int) -> list[float]:
    [row] = chain.feast.online(chain.spec.feature_view).read([entity])
    return [float(row.values[name]) for name in chain.spec.feature_names]


def test_entity_is_answered_as_its_row_would_be(gateway: RunningGateway, chain: Chain) -> None:
    ids = [1, 60, 120, 1]
    found = ask(gateway, entity_ids=ids).json()
    by_row = ask(gateway, data=[stored_row(chain, one) for one in ids]).json()
    assert found["feature_source"] == "feast"
    assert by_row["feature_source"] == "payload"
    assert found["predictions"] == by_row["predictions"]
    assert found["probabilities"] == by_row["probabilities"]
    single = ask(gateway, entity_id=60).json()
    # Rows of another batch size are added up in another order.
    assert single["probabilities"][0] == pytest.approx(by_row["probabilities"][1], abs=1e-6)


def test_entity_may_be_named_by_its_key_and_its_features_replaced(
    gateway: RunningGateway, chain: Chain
) -> None:
    key = chain.spec.join_key.column
    row = stored_row(chain, KNOWN)
    by_id = ask(gateway, entity_ids=[KNOWN, KNOWN]).json()
    by_key = ask(gateway, entities=[{key: KNOWN}] * 2).json()
    assert by_key.pop("prediction_id") != by_id.pop("prediction_id")
    assert by_key == by_id
    assert datetime.fromisoformat(by_key["features_as_of"]).tzinfo is not None
    name, *others = chain.spec.feature_names
    replaced = ask(gateway, entities={key: KNOWN}, request={name: row[0] + 1}).json()
    expected = ask(gateway, data=[[row[0] + 1, *row[1:]]]).json()
    assert (replaced["feature_source"], replaced["probabilities"]) == (
        *("override", expected["probabilities"]),
    )
    sent = dict(zip((name, *others), row, strict=True))
    alone = ask(gateway, request=sent).json()
    assert (alone["feature_source"], alone["features_as_of"]) == ("override", None)
    refused = ask(gateway, entities=[{key: KNOWN}, {key: UNKNOWN}], request=[{}, {name: 1.0}])
    assert (refused.status_code, refused.json()["field"]) == (422, f"entities[1].{key}")
    assert metric(gateway, "gateway_feature_source_total", source="override") == 2


def test_payload_is_used_for_entities_that_the_store_lacks(
    gateway: RunningGateway, chain: Chain
) -> None:
    before = counted(gateway)
    rows = [PAYLOAD, PAYLOAD]
    found = ask(gateway, entity_ids=[KNOWN, UNKNOWN], data=rows).json()
    expected = ask(gateway, data=[stored_row(chain, KNOWN), PAYLOAD]).json()
    assert found["feature_source"] == "fallback"
    assert found["probabilities"] == expected["probabilities"]
    named = [dict(zip(chain.spec.feature_names, PAYLOAD, strict=True))] * 2
    again = ask(gateway, entity_ids=[KNOWN, UNKNOWN], instances=named).json()
    assert again["probabilities"] == expected["probabilities"]
    after = counted(gateway)
    assert {source: after[source] - before[source] for source in after} == {
        "payload": 1,
        "feast": 0,
        "fallback": 2,
    }


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({"entity_id": UNKNOWN}, "entity_id", "unknown_entity"),
        ({"entity_ids": [KNOWN, UNKNOWN]}, "entity_ids[1]", "unknown_entity"),
        ({"entity_id": "one"}, "entity_id", "wrong_type"),
        ({"entity_ids": [KNOWN, "one"]}, "entity_ids[1]", "wrong_type"),
        *(
            ({"entity_ids": [KNOWN, wrong]}, "entity_ids[1]", "wrong_type")
            for wrong in (1.5, True, None, [1])
        ),
        ({"entity_ids": []}, "entity_ids", "empty"),
        ({"entity_id": KNOWN, "data": [PAYLOAD, PAYLOAD]}, "data", "wrong_length"),
    ],
)
def test_invalid_entities_are_refused_with_their_place(
    gateway: RunningGateway, body: dict[str, Any], field: str, code: str
) -> None:
    answer = ask(gateway, **body)
    found = answer.json()
    assert (answer.status_code, found["field"], found["code"]) == (422, field, code)


def test_concurrent_look_ups_share_reads(gateway: RunningGateway) -> None:
    def reads() -> float:
        return metric(gateway, "gateway_feature_reads_total", outcome="answered")

    async def load() -> int:
        async with (
            Load(gateway.url, 32, body={"entity_id": KNOWN}) as running,
            asyncio.timeout(120),
        ):
            while len(running.answers) < 1_000:  # noqa: ASYNC110 -- a list has no event
                await asyncio.sleep(0.01)
        assert running.failed == []
        return len(running.answers)

    before = reads()
    answered = asyncio.run(load())
    assert 1 <= reads() - before < answered


def test_start_before_the_feature_store_exists_serves_rows_and_finds_it_later(
    tmp_path: Path, triton: RunningTriton
) -> None:
    chain = new_chain(tmp_path)
    with run_on(chain, tmp_path, triton) as gateway:
        assert ask(gateway, data=[PAYLOAD]).json()["feature_source"] == "payload"
        answer = ask(gateway, entity_id=KNOWN)
        assert (answer.status_code, answer.json()["code"]) == (503, "features_unavailable")

        def is_explained() -> bool:
            return "written by the pipeline" in ask(gateway, entity_id=KNOWN).json()["error"]

        wait_until(is_explained, 90, "the reason")
        assert int(answer.headers["retry-after"]) >= 1
        assert gateway.ready()
        assert chain.run(*FEATURE_ASSETS).failures == {}
        # By itself: no request has to fail before it is looked for.
        log = gateway.process.log
        wait_until(lambda: "the feature store is open" in log.read_text(), 90, "the store")

        def is_looked_up() -> bool:
            return bool(ask(gateway, entity_id=KNOWN).json().get("feature_source") == "feast")

        # The first look-up of a new store may meet its deadline on a busy machine.
        wait_until(is_looked_up, 10, "a look-up")


@pytest.mark.needs("redis-server")
async def test_loss_of_the_feature_store_fails_no_request_with_a_row(
    tmp_path: Path, triton: RunningTriton
) -> None:
    with run_redis(tmp_path / "redis") as redis:
        chain = new_chain(tmp_path, redis=redis.url)
        assert (await asyncio.to_thread(chain.run, *FEATURE_ASSETS)).failures == {}
        manager = run_on(chain, tmp_path, triton)
        gateway = await asyncio.to_thread(manager.__enter__)
        try:
            await asyncio.to_thread(wait_for_features, gateway)
            before = counted(gateway)
            body = {"entity_id": KNOWN, "data": [PAYLOAD]}
            async with Load(gateway.url, 8, pause_seconds=0.02, body=body) as load:
                await phase(load, "feast")
                redis.process.signal(signal.SIGSTOP)
                await phase(load, "fallback")
                redis.process.signal(signal.SIGCONT)
                await phase(load, "feast")
                await asyncio.to_thread(redis.process.kill)
                await phase(load, "fallback")
            found = Counter(sources(load.answers))
            after = counted(gateway)
            assert load.failed == []
            assert max(answer.seconds for answer in load.answers) < 1
            assert {s: after[s] - before[s] for s in after} == {
                "payload": 0,
                "feast": found["feast"],
                "fallback": found["fallback"],
            }
            assert metric(gateway, "gateway_feature_store_skipped") == 1
            assert ask(gateway, entity_id=KNOWN).status_code == 503
            assert gateway.ready()
        finally:
            await asyncio.to_thread(manager.__exit__, None, None, None)


def sources(answers: Sequence[Answer]) -> list[str]:
    return [answer.feature_source for answer in answers]


async def phase(load: Load, source: str) -> None:
    """Wait until a hundred further answers in a row came from one source."""
    seen = len(load.answers)
    async with asyncio.timeout(120):
        while sources(load.answers[seen:][-100:]) != [source] * 100:  # noqa: ASYNC110 -- a list has no event
            await asyncio.sleep(0.02)
