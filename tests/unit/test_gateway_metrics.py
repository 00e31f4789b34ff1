"""Metrics: valid text, a bounded number of lines, and an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware.gzip import GZipResponder

from serving_gateway.contract import RoutedVersion
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.shadow import ShadowStatistics
from serving_gateway.main import create_app
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import (
    KEPT_VERSIONS,
    HistogramState,
    LookupCounts,
    RoutedState,
    VariantStats,
)
from serving_gateway.telemetry.exposition import Exposition, labels
from serving_gateway.telemetry.metrics import Metrics
from tests.support.garbage import no_collection

A = RoutedVersion("m", 1, "run-1")
B = RoutedVersion("m", 2, "run-2")
SCOPE: Final = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.4"},
    "http_version": "1.1",
    "method": "GET",
    "query_string": b"",
    "headers": [(b"host", b"localhost:8080"), (b"accept-encoding", b"gzip")],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 8080),
    "scheme": "http",
}


async def scrape(metrics: Metrics) -> dict[str, Metric]:
    return parsed(await scraped(metrics))


async def scraped(metrics: Metrics) -> bytes:
    return b"".join(await metrics.render())


def parsed(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(families: dict[str, Metric], name: str, **wanted: str) -> float:
    """The value of the one sample with this name and these labels."""
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and wanted.items() <= sample.labels.items()
    )
    return found


def promoted(metrics: Metrics, model_name: str, versions: int) -> None:
    """Route a model to `versions` versions in turn, on both variants, each answering once."""
    model = metrics.model(model_name)
    model.routed_state = lambda: RoutedState(True, versions, [("A", versions, True)])
    model.shadow = ShadowStatistics(0, 5.0).state
    for outcome in ("agreed", "disagreed", "failed", "dropped"):
        model.mirrored.labels(outcome)
    for version in range(1, versions + 1):
        for variant in "AB":
            model.variant(variant, version).answer(0.001, 1)


async def most_between_turns(work: Callable[[], Awaitable[object]], done: Callable[[], int]) -> int:
    """What `done` counts while the loop does nothing but `work`, at most."""
    most = last = done()

    async def turns() -> None:
        nonlocal most, last
        while True:
            most, last = max(most, done() - last), done()
            await asyncio.sleep(0)

    turning = asyncio.create_task(turns())
    await work()
    await asyncio.sleep(0)
    turning.cancel()
    with suppress(asyncio.CancelledError):
        await turning
    return most


@pytest.mark.parametrize(("models", "versions"), [(1, 500), (500, 1), (1000, 3)])
async def test_scrape_lets_the_loop_go_on(
    models: int, versions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics("r")
    for number in range(models):
        promoted(metrics, f"model_{number}", versions)
    added, clock = Counter[str](), itertools.count()

    def counting(add: Callable[..., None]) -> Callable[..., None]:
        def counted(text: Exposition, name: str, *sample: Any) -> None:
            added[name] += 1
            add(text, name, *sample)

        return counted

    for name in ("add", "add_histogram"):
        monkeypatch.setattr(Exposition, name, counting(getattr(Exposition, name)))
    # As if each model took half a millisecond, whatever else this machine is doing.
    monkeypatch.setattr("serving_gateway.telemetry.metrics.monotonic", lambda: next(clock) / 2_000)
    assert await most_between_turns(metrics.render, added.total) < 600
    assert added["gateway_rows_total"] == models * min(versions, KEPT_VERSIONS) * 2


async def test_scrape_is_made_of_parts_that_are_small() -> None:
    metrics = Metrics("r")
    for number in range(500):
        promoted(metrics, f"model_{number}", 3)
    parts = await metrics.render()
    assert sum(map(len, parts)) > 2_000_000
    assert max(map(len, parts)) < 80_000, "none is joined or compressed for long"


async def test_compressed_response_lets_the_loop_go_on(tmp_path: Path) -> None:
    app = create_app(Settings(state_dir=tmp_path)).app
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def get(path: str) -> None:
        await app({**SCOPE, "path": path, "raw_path": path.encode()}, receive, send)

    await get("/health")  # builds what the first request builds
    sent.clear()
    for number in range(1000):
        promoted(app._metrics, f"model_{number}", 3)
    parts = 0

    async def count(responder: GZipResponder, part: bytes, *, more_body: bool) -> bytes:
        nonlocal parts
        parts += 1
        return await compress(responder, part, more_body=more_body)

    compress = GZipResponder.apply_compression
    with mock.patch.object(GZipResponder, "apply_compression", count):
        at_once = await most_between_turns(lambda: get("/metrics"), lambda: parts)
    assert at_once == 1, "of the parts of the text"
    assert (b"content-encoding", b"gzip") in sent[0]["headers"]
    text = gzip.decompress(b"".join(message.get("body", b"") for message in sent))
    assert text.count(b"gateway_rows_total{") == 6000


async def test_scrape_has_the_last_versions_of_a_variant_after_many_promotions() -> None:
    few, many = Metrics("r"), Metrics("r")
    promoted(few, "m", KEPT_VERSIONS)
    promoted(many, "m", 500)
    lines = [len((await scraped(metrics)).splitlines()) for metrics in (few, many)]
    assert lines[0] == lines[1]
    answered = (await scrape(many))["gateway_predictions"].samples
    assert {(one.labels["variant"], one.labels["version"]) for one in answered} == {
        (variant, str(version)) for variant in "AB" for version in (498, 499, 500)
    }


async def test_version_that_is_adopted_again_keeps_its_counts_and_its_place() -> None:
    model = Metrics().model("m")
    first = model.variant("A", 1)
    for version in (2, 3, 1, 4, 1, 5):
        stats = model.variant("A", version)
        assert (stats is first) == (version == 1)
    assert [version for _, version in model.variants] == [4, 1, 5]


async def test_lines_grow_linearly_with_models() -> None:
    async def lines(models: int) -> int:
        metrics = Metrics("r")
        for number in range(models):
            promoted(metrics, f"model_{number}", 2)
        return len((await scraped(metrics)).splitlines())

    one, two, eleven = [await lines(models) for models in (1, 2, 11)]
    assert eleven - one == 10 * (two - one)


async def test_scrapes_that_wait_share_one_text_that_holds_all_counted_before_them() -> None:
    metrics = Metrics("r")
    for number in range(500):
        promoted(metrics, f"model_{number}", 1)
    stats = metrics.model("model_0").variant("A", 1)
    running = asyncio.create_task(metrics.render())
    await asyncio.sleep(0.002)
    assert not running.done()
    stats.answer(0.1, 41)
    waiting = [asyncio.create_task(metrics.render()) for _ in range(3)]
    texts = await asyncio.gather(running, *waiting)
    wanted = b'gateway_rows_total{model="model_0",variant="A",version="1"} 42\n'
    assert [wanted in b"".join(parts) for parts in texts[1:]] == [True, True, True]
    assert texts[1] is texts[2] is texts[3]


async def test_scrapes_in_a_row_leave_most_of_the_loop_to_requests() -> None:
    metrics = Metrics("r")
    for number in range(300):
        promoted(metrics, f"model_{number}", 1)

    async def processor_time() -> float:
        await metrics.render()
        began = time.thread_time()
        for _ in range(5):
            await metrics.render()
        return time.thread_time() - began

    async def requests() -> None:
        while True:  # noqa: ASYNC110 -- the others are not waited for
            await asyncio.sleep(0)

    with no_collection():
        alone = await processor_time()
        others = asyncio.create_task(requests())
        assert await processor_time() > 2 * alone
        others.cancel()


async def test_scrape_that_is_cancelled_leaves_the_text_to_the_others() -> None:
    metrics = Metrics("r")
    promoted(metrics, "m", 1)
    leaving, staying = (asyncio.create_task(metrics.render()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert b"gateway_rows_total" in b"".join(await staying)


async def test_failed_scrape_is_not_remembered() -> None:
    metrics, broken = Metrics("r"), True

    def routed() -> RoutedState:
        if broken:
            raise RuntimeError("not now")
        return RoutedState(ready=True, generation=7)

    metrics.model("m").routed_state = routed
    with pytest.raises(RuntimeError, match="not now"):
        await metrics.render()
    broken = False
    families = await scrape(metrics)
    assert value(families, "gateway_routing_generation") == 7


async def test_every_kind_of_number_is_read_back_by_the_prometheus_parser() -> None:
    lookups = LookupCounts()
    lookups.reads, lookups.failed_reads, lookups.timed_out = 5, 2, 1
    lookups.by_status["found"] += 3

    class Store:
        counts = lookups
        skipped_services = ("flowers_v1",)

    metrics = Metrics('host "a"\\1\n', Store())
    metrics.http_requests.labels("GET", "/metrics", "200").inc()
    metrics.task_restarts.labels("watcher").inc(2)
    metrics.in_flight = 4
    model = metrics.model("m")
    model.routed_state = lambda: RoutedState(True, 3, [("A", 2, True), ("B", 3, False)])
    model.fallbacks.inc()
    model.sources["feast"] += 1
    model.mirrored.labels("agreed").inc(6)
    model.changes.labels("reload", "success").inc()
    stats = model.variant("A", 2)
    stats.answer(0.0012, 3)
    stats.answer(100.0, 1)
    stats.fail()
    families = await scrape(metrics)
    assert value(families, "gateway_info") == 1
    assert families["gateway_info"].samples[0].labels == {"replica": 'host "a"\\1\n'}
    for name, wanted, number in (
        ("http_requests_total", {"method": "GET", "path": "/metrics", "status": "200"}, 1),
        ("gateway_task_restarts_total", {"task": "watcher"}, 2),
        ("gateway_requests_in_flight", {}, 4),
        ("gateway_fallbacks_total", {"model": "m"}, 1),
        ("gateway_feature_source_total", {"source": "feast"}, 1),
        ("gateway_mirrored_total", {"outcome": "agreed"}, 6),
        ("gateway_changes_total", {"operation": "reload", "outcome": "success"}, 1),
        ("gateway_predictions_total", {"version": "2", "outcome": "answered"}, 2),
        ("gateway_predictions_total", {"outcome": "failed"}, 1),
        ("gateway_rows_total", {"variant": "A"}, 4),
        ("gateway_prediction_seconds_count", {}, 2),
        ("gateway_prediction_seconds_sum", {}, 100.0012),
        ("gateway_prediction_seconds_bucket", {"le": "0.001"}, 0),
        ("gateway_prediction_seconds_bucket", {"le": "0.002"}, 1),
        ("gateway_prediction_seconds_bucket", {"le": "+Inf"}, 2),
        ("gateway_ready", {}, 1),
        ("gateway_effective_version_ready", {"variant": "B", "version": "3"}, 0),
        ("gateway_feature_reads_total", {"outcome": "answered"}, 3),
        ("gateway_feature_look_ups_total", {"outcome": "timed_out"}, 1),
        ("gateway_feature_entities_total", {"status": "found"}, 3),
        ("gateway_feature_entities_total", {"status": "expired"}, 0),
        ("gateway_feature_store_skipped", {}, 1),
    ):
        assert value(families, name, **wanted) == pytest.approx(number), name
    assert value(families, "process_resident_memory_bytes") > 1_000_000
    assert 0 <= time.time() - value(families, "process_start_time_seconds") < 86_400
    assert value(families, "process_open_fds") > 2
    assert value(families, "python_gc_collections_total", generation="0") > 0
    types = {name: family.type for name, family in families.items()}
    assert types["gateway_predictions"] == "counter"
    assert types["gateway_prediction_seconds"] == "histogram"
    assert types["gateway_ready"] == "gauge"


async def test_forgotten_model_is_no_longer_reported() -> None:
    metrics = Metrics("r")
    promoted(metrics, "m", 1)
    metrics.forget("m")
    assert b'model="m"' not in await scraped(metrics)


async def test_scrape_of_one_model_holds_no_other_model() -> None:
    metrics = Metrics("r")
    for name in ("m", "n"):
        promoted(metrics, name, 1)
    families = parsed(b"".join(metrics.render_model("m")))
    assert value(families, "gateway_ready", model="m") == 1
    assert value(families, "gateway_info", replica="r") == 1
    for other in ("n", "x"):
        assert f'model="{other}"'.encode() not in b"".join(metrics.render_model("m"))
    assert b'model="' not in b"".join(metrics.render_model("x"))
    assert b'model="x"' not in await scraped(metrics), "a question makes no model"


@given(st.dictionaries(st.sampled_from("abc"), st.text()), st.floats(allow_nan=False))
def test_any_label_and_number_is_read_back(given: dict[str, str], number: float) -> None:
    written = Exposition("n gauge d")
    written.add("n", labels(**given), number)
    given = {name: text.encode(errors="replace").decode() for name, text in given.items()}
    (found,) = text_string_to_metric_families(b"".join(written.encode()).decode())
    (sample,) = found.samples
    assert (sample.labels, sample.value) == (given, number)


def test_last_request_is_dated_whether_it_was_answered_or_not() -> None:
    for end in (lambda stats: stats.answer(0.1, 1), VariantStats.fail):
        stats, before = VariantStats(), time.monotonic()
        end(stats)
        assert stats.last_at is not None
        assert before <= stats.last_at <= time.monotonic()


async def test_shadow_histograms_are_cumulative_and_whole() -> None:
    ledger = ShadowStatistics(0, 5.0)
    metrics = Metrics()
    metrics.model("m").shadow = ledger.state
    assert b"gateway_shadow_rows_total{" not in await scraped(metrics)
    page = ledger.open((A, B), lambda: "2026-01-01T00:00:00.000Z")
    for number in range(10):
        ours = ModelOutput([1], [[0.9, 0.1]])
        theirs = ModelOutput([1 + number % 2], [[0.9 - number / 20, 0.1 + number / 20]])
        page.note(ours, theirs, (number - 5) / 1000, [[1.0]])
    families = await scrape(metrics)
    rows = {s.labels["outcome"]: s.value for s in families["gateway_shadow_rows"].samples}
    assert rows == {"agreed": 5, "disagreed": 5}
    for name in ("probability_difference", "latency_difference_seconds"):
        samples = families[f"gateway_shadow_{name}"].samples
        buckets = [s.value for s in samples if s.name.endswith("_bucket")]
        assert all(low <= high for low, high in pairwise(buckets))
        assert buckets[-1] == 10
        assert all((s.labels["model"], s.labels["version_b"]) == ("m", "2") for s in samples)


def test_histogram_without_a_sum_has_none() -> None:
    written = Exposition("n histogram d")
    written.add_histogram("n", labels(a="b"), HistogramState((0.0,), (1, 2), None))
    (found,) = text_string_to_metric_families(b"".join(written.encode()).decode())
    assert [(sample.name, sample.value) for sample in found.samples] == [
        *(("n_bucket", 1), ("n_bucket", 3))
    ]
