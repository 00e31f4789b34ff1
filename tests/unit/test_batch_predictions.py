"""A file of predictions: of one version, whole or not at all, and what is said when it is not."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from platform_assets.components.loading import read_models
from platform_assets.features.records import FeatureData
from platform_assets.features.sources.reader import Progress
from platform_assets.features.storage import StaleDataError
from platform_assets.model_spec import FeatureSpec
from platform_assets.resources.folders import PredictionsFolder
from platform_assets.resources.gateway import GatewayRefused, GatewayResource
from platform_assets.resources.records import RegisteredVersion
from platform_assets.resources.triton import TritonRefused
from platform_assets.scoring.assets import scoring_assets
from platform_assets.scoring.checks import compare_answers, scoring_checks
from platform_assets.scoring.inference import map_in_order
from platform_assets.scoring.production import NoProductionVersion, production_version
from platform_assets.scoring.queries import newest_rows
from platform_assets.scoring.records import AS_OF, REASON, BatchPredictions, SampledRow
from platform_assets.scoring.summary import distribution, distribution_picture
from platform_assets.scoring.writing import PredictionWriter
from serving_gateway.contract import FeatureSource, PredictResponse
from tests.support.chain import failures_of, op_config
from tests.support.drifting import VISITORS
from tests.support.scoring import (
    RUN_ID,
    VERSION,
    FakeEndpoint,
    Tensors,
    customers_data,
    routed,
    serve,
    shops_data,
)
from tests.support.several_tables import tables, write_files

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def by_visits(inputs: Tensors) -> dict[str, Any]:
    """True for more than ten visits; the probability tells the country."""
    visits = inputs["visits"].ravel()
    share = np.where(inputs["country"].ravel() == "CH", 0.75, 0.25).astype(np.float32)
    return {
        "label": (visits > 10).astype(np.int64).reshape(-1, 1),
        "probabilities": np.stack([1 - share, share], axis=1),
    }


def features(folder: Path, rows: int = 50) -> FeatureData:
    table = pa.table(
        {
            "entity_id": [*range(rows)],
            "event_timestamp": pa.array([NOW] * rows, pa.timestamp("us", "UTC")),
            "age": pa.array([None if n % 3 else n for n in range(rows)], pa.float32()),
            "visits": pa.array([None if n == 4 else n for n in range(rows)], pa.int64()),
            "country": [None if n % 7 == 0 else "CH" for n in range(rows)],
            "member": [n % 2 == 0 for n in range(rows)],
        }
    )
    path = folder / "features.parquet"
    parquet.write_table(table.replace_schema_metadata({"serving.data_fingerprint": "f"}), path)
    return FeatureData("visitors", "test", str(path), "", rows, rows, "f")


def writer(*endpoints: FakeEndpoint, max_batch_rows: int = 16) -> PredictionWriter:
    signature = VISITORS.signature((False, True))
    chosen = type(signature)(
        **{name: getattr(signature, name) for name in signature.__struct_fields__}
        | {"max_batch_rows": max_batch_rows}
    )
    version = RegisteredVersion("visitors", VERSION, RUN_ID, "f", chosen)
    servers: Any = endpoints
    return PredictionWriter(VISITORS, version, servers, NOW, Progress())


def test_file_holds_every_row_in_order_with_its_answer_or_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform_assets.scoring.writing._PART_ROWS", 20)
    first, second = FakeEndpoint(by_visits), FakeEndpoint(by_visits)
    rows = newest_rows(features(tmp_path), VISITORS, NOW)

    made = writer(first, second).write(rows, tmp_path / "made.parquet", tmp_path)

    assert (made.rows, made.unscored, made.reasons) == (50, 1, {"visits is missing": 1})
    # Twenty rows at a time, by turns, and no more in a request than the version takes.
    assert (sorted(first.sizes), sorted(second.sizes)) == ([3, 10, 16], [4, 16])
    found = parquet.read_table(made.path)
    assert found["entity_id"].to_pylist() == [*range(50)]
    assert found["prediction"].to_pylist() == [None if n == 4 else n > 10 for n in range(50)]
    shares = [None if n == 4 else 0.25 if n % 7 == 0 else 0.75 for n in range(50)]
    assert found["probability_True"].to_pylist() == shares
    assert found.select(["prediction_version", "prediction_run_id", "prediction_time"]).slice(
        0, 1
    ).to_pylist() == [
        {"prediction_version": VERSION, "prediction_run_id": RUN_ID, "prediction_time": NOW}
    ]
    assert found[AS_OF].null_count == 50
    assert len(made.sample) == 49
    assert made.sample[7] == SampledRow(
        (None, 8, "CH", True), False, (0.25, 0.75), {"entity_id": 8}
    )


def test_version_that_stops_being_ready_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    rows = newest_rows(features(tmp_path), VISITORS, NOW)
    with pytest.raises(TritonRefused):
        writer(FakeEndpoint(by_visits, lasts=2)).write(rows, folder / "made.parquet", tmp_path)
    assert [*folder.iterdir()] == []


def test_features_that_are_read_anew_meanwhile_leave_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    data = features(tmp_path)

    def replaced(inputs: Tensors) -> dict[str, Any]:
        parquet.write_table(pa.table({"entity_id": [1]}), data.features_path)
        return by_visits(inputs)

    with pytest.raises(StaleDataError):
        writer(FakeEndpoint(replaced), max_batch_rows=64).write(
            newest_rows(data, VISITORS, NOW), folder / "made.parquet", tmp_path
        )
    assert [*folder.iterdir()] == []


def test_parts_come_in_order_and_few_are_read_ahead() -> None:
    release = [threading.Event() for _ in range(8)]
    taken: list[int] = []

    def given() -> Iterator[int]:
        for number in range(8):
            taken.append(number)
            yield number

    def make(number: int) -> int:
        assert release[number].wait(10)
        return number

    release[1].set()
    release[0].set()
    made = map_in_order(make, given(), threads=2)
    assert next(made) == 0
    assert taken == [0, 1, 2]
    for one in release:
        one.set()
    assert [*made] == [1, 2, 3, 4, 5, 6, 7]


def test_first_error_of_a_part_ends_the_scoring() -> None:
    with pytest.raises(ZeroDivisionError):
        [*map_in_order(lambda number: 1 // number, [1, 0, 1, 1], threads=2)]


@pytest.mark.parametrize(
    ("statuses", "ready", "said"),
    [
        ([], [], "no version of visitors is in production"),
        ([routed(VISITORS, 7), routed(VISITORS, 8)], [7, 8], "to different versions: [7, 8]"),
        ([routed(VISITORS)], [6], "version 7 of visitors is in production, but not READY"),
        (
            [routed(replace(VISITORS, features=(*VISITORS.features, FeatureSpec("height"))))],
            [7],
            "reads other columns than the model file names",
        ),
    ],
)
def test_nothing_is_scored_without_one_ready_version_of_the_file(
    monkeypatch: pytest.MonkeyPatch, statuses: list[Any], ready: list[int], said: str
) -> None:
    gateway, triton = serve(monkeypatch, statuses, ready)
    with pytest.raises(NoProductionVersion) as refused:
        production_version(VISITORS, gateway, triton)
    assert said in str(refused.value)


def test_version_is_the_one_that_gateways_route_to(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, triton = serve(monkeypatch, [routed(VISITORS)] * 2)
    found = production_version(VISITORS, gateway, triton)
    assert (found.version, found.run_id) == (VERSION, RUN_ID)
    assert found.signature == VISITORS.signature((False, True))


def test_failed_scoring_says_that_no_file_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = features(tmp_path)
    dying = FakeEndpoint(by_visits, lasts=0)
    gateway, triton = serve(monkeypatch, [routed(VISITORS)], endpoints=[dying])

    @dg.asset(key=VISITORS.key("online_features"))
    def online_features() -> FeatureData:
        return data

    result = dg.materialize(
        [online_features, *scoring_assets(VISITORS)],
        resources={
            "gateway": gateway,
            "triton": triton,
            "predictions": PredictionsFolder(root=str(tmp_path / "predictions")),
        },
        raise_on_error=False,
    )

    message = failures_of(result)["batch_predictions"]
    assert "Not all rows were answered: visitors version 7 is not READY" in message
    assert "No file was written, and serving is as it was" in message
    assert [*(tmp_path / "predictions" / "visitors").iterdir()] == []


def test_tables_are_read_as_they_are_now_and_not_as_the_model_learned_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tables(payments=3)
    write_files(tmp_path, drawn)
    [spec] = read_models(tmp_path).specs.values()
    newest = {
        "customers": customers_data(drawn, tmp_path),
        "shops": shops_data(drawn, tmp_path),
    }
    learned = tuple(replace(one, features_path="replaced since") for one in newest.values())
    newest[spec.name] = FeatureData(spec.name, "test", "", "", 3, 3, "f", tables=learned)
    customers = replace(spec.tables[0], ttl=timedelta(days=36500))
    spec = replace(spec, tables=(customers, spec.tables[1]))
    file = tmp_path / "score.csv"
    file.write_text("payer,shop_id,amount\n1,s1,2.5\n2,s2,\n")

    def stub(name: str) -> dg.AssetsDefinition:
        @dg.asset(key=[name, "online_features"])
        def online_features() -> FeatureData:
            return newest[name]

        return online_features

    def risky(inputs: Tensors) -> dict[str, Any]:
        risk = inputs["risk"].ravel()
        return {"label": risk > 0.5, "probabilities": np.stack([1 - risk, risk], axis=1)}

    gateway, triton = serve(
        monkeypatch,
        [routed(spec, signature=spec.signature((False, True)))],
        endpoints=[FakeEndpoint(risky)],
    )
    result = dg.materialize(
        [*map(stub, newest), *scoring_assets(spec)],
        resources={
            "gateway": gateway,
            "triton": triton,
            "predictions": PredictionsFolder(root=str(tmp_path / "predictions")),
            "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "values")),
        },
        run_config=op_config("batch_predictions", {"source": str(file)}, spec),
    )

    made = result.asset_value(dg.AssetKey(spec.key("batch_predictions")))
    found = parquet.read_table(made.path).to_pylist()
    assert [one["customer_id"] for one in found] == [1, 2]
    assert [one[REASON] for one in found] == [None, "amount is missing"]
    assert found[0]["probability_True"] == np.float32(drawn.shops["s1"])
    [sampled] = made.sample
    assert sampled.entity == {"customer_id": 1, "shop_id": "s1"}
    assert sampled.request == {"amount": 2.5}


@pytest.mark.parametrize(("lookups", "features"), [(True, "online store"), (False, "sent")])
def test_check_asks_by_key_where_the_gateway_looks_features_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lookups: bool, features: str
) -> None:
    gateway, _ = serve(monkeypatch, [])
    sample = tuple(SampledRow((n,), n, (), {"id": n}, {"sent": -n}) for n in (1, 2))
    version = RegisteredVersion("visitors", VERSION, RUN_ID, "f", VISITORS.signature(()))

    def answer(_self: object, path: str, body: Any, **_: Any) -> bytes:
        if "entities" in body and not lookups:
            raise GatewayRefused("no store", status=422, code="features_off")
        if "entities" in body:
            assert body["request"] == [{"sent": -1}, {"sent": -2}]
        found = [one["id"] for one in body.get("entities", ())] or [row[0] for row in body["data"]]
        response = PredictResponse(
            found, None, "visitors", "A", VERSION, RUN_ID, 1, FeatureSource.FEAST
        )
        return msgspec.json.encode(response)

    monkeypatch.setattr(GatewayResource, "_post", answer)
    [check] = scoring_checks(VISITORS)
    made = BatchPredictions("unused", version, 2, {}, sample)
    verdict = check(made, gateway=gateway)

    assert isinstance(verdict, dg.AssetCheckResult)
    assert verdict.passed
    assert verdict.metadata["features"].value == features
    assert verdict.metadata["rows_identical"].value == 2


def test_check_warns_where_production_has_moved_since(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, _ = serve(monkeypatch, [])
    response = PredictResponse([1], None, "visitors", "A", 8, "run-8", 2, FeatureSource.PAYLOAD)
    monkeypatch.setattr(GatewayResource, "_post", lambda *_, **__: msgspec.json.encode(response))
    version = RegisteredVersion("visitors", VERSION, RUN_ID, "f", VISITORS.signature(()))
    made = BatchPredictions("unused", version, 1, {}, (SampledRow((1,), 1, ()),))
    [check] = scoring_checks(VISITORS)

    verdict = check(made, gateway=gateway)

    assert isinstance(verdict, dg.AssetCheckResult)
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "answered by version 8, not 7" in str(verdict.description)


SAMPLE = (SampledRow((1.0,), "a", (0.75, 0.25)), SampledRow((2.0,), "b", (0.5, 0.5)))


@pytest.mark.parametrize(
    ("labels", "shares", "identical", "differing"),
    [
        (["a", "b"], [[0.75, 0.25], [0.5, 0.5]], 2, 0),
        (["b", "b"], [[0.75, 0.25], [0.5, 0.5]], 1, 1),
        (["a", "a"], [[0.75, 0.25], [0.5000002, 0.4999998]], 1, 0),
        (["a", "b"], [[0.7501, 0.2499], [0.5, 0.5]], 1, 1),
    ],
)
def test_answers_are_equal_but_for_rounding(
    labels: list[str], shares: list[list[float]], identical: int, differing: int
) -> None:
    found = compare_answers(SAMPLE, labels, shares)
    assert (found.identical, len(found.differing)) == (identical, differing)


def test_nan_equals_nothing_but_nan() -> None:
    sample = [SampledRow((1.0,), float("nan"), ()), SampledRow((1.0,), float("nan"), ())]
    found = compare_answers(sample, [3.0, float("nan")], [])
    assert (len(found.differing), found.largest_difference) == (1, float("inf"))


def test_numbers_are_equal_as_a_part_of_their_size() -> None:
    sample = [SampledRow((1.0,), 1e6, ()), SampledRow((1.0,), 1e-6, ())]
    assert len(compare_answers(sample, [1e6 + 0.1, 1e-6], []).differing) == 0
    assert len(compare_answers(sample, [1e6, 1.1e-6], []).differing) == 1


def test_distribution_counts_every_prediction(tmp_path: Path) -> None:
    labels, numbers = tmp_path / "labels.parquet", tmp_path / "numbers.parquet"
    parquet.write_table(pa.table({"prediction": ["b", "a", "b", None]}), labels)
    values = [float(number) for number in range(100)]
    parquet.write_table(pa.table({"prediction": [*values, None]}), numbers)

    counted = distribution(labels, of_numbers=False)
    binned = distribution(numbers, of_numbers=True)

    assert (counted.places, counted.counts) == (("b", "a"), (2, 1))
    assert sum(binned.counts) == 100
    assert len(binned.counts) == 30
    for found in (counted, binned):
        assert distribution_picture(found).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([1.0, math.nan, 3.0], 2),
        ([1.0, math.inf, -math.inf], 1),
        ([math.inf], 0),
        ([1e308, -1e308, 2.0], 1),
        ([5e-324, 0.0], 2),
        ([1e300, -1e300], 2),
    ],
)
def test_numbers_that_cannot_be_drawn_are_left_out_of_the_distribution(
    values: list[float], drawn: int, tmp_path: Path
) -> None:
    path = tmp_path / "numbers.parquet"
    parquet.write_table(pa.table({"prediction": pa.array(values, pa.float64())}), path)
    found = distribution(path, of_numbers=True)
    assert sum(found.counts) == drawn
    assert distribution_picture(found).startswith(b"\x89PNG")
