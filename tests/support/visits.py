"""A model of visits on a real Feast, for tests of what its online store holds."""

from __future__ import annotations

from pathlib import Path

from platform_assets.model_spec import (
    Evaluation,
    EventTime,
    FeatureSpec,
    Gates,
    JoinKey,
    ModelSpec,
    Source,
    Split,
    Target,
    Task,
)
from platform_assets.resources.feast import FeastResource
from serving_gateway.contract import DType
from serving_gateway.features.feast_store import FeastStore
from serving_gateway.features.types import LookupResult
from tests.support.feature_chain import ONLINE, FeatureChain, FeatureOutcome, feature_chain
from tests.support.feature_lookups import read

SPEC = ModelSpec(
    model_name="visits",
    task=Task.BINARY,
    source=Source("${SOURCE_PATH}"),
    features=(FeatureSpec("x"), FeatureSpec("note", DType.BYTES, nullable=True)),
    target=Target("y", DType.BYTES),
    candidates=(),
    gates=Gates(metric_floor=0.5),
    evaluation=Evaluation(metric="accuracy", split=Split.ENTITY),
    join_key=JoinKey("id"),
    event_time=EventTime("seen", timezone="UTC"),
)
HEADER = "id,seen,x,note,z,y"


def visit_lines(ids: range, day: int = 1, x: float = 0.5) -> list[str]:
    return [
        f"{one},2024-03-{day:02d},{one + x},{'' if one % 3 else 'n'},1,{'yes' if one % 2 else 'no'}"
        for one in ids
    ]


async def read_as_gateway(feast: FeastResource, *ids: int) -> list[LookupResult]:
    """What the gateway reads."""
    store = FeastStore(feast.home)
    try:
        await store.prepare(SPEC.feature_service)
        return await read(store, SPEC.feature_service, ("x",), ids)
    finally:
        await store.aclose()


def visits_chain(home: Path, store: str = "", spec: ModelSpec = SPEC) -> FeatureChain:
    chain = feature_chain(home, redis=store, spec=spec)
    write_source(chain, visit_lines(range(40)))
    return chain


def write_source(chain: FeatureChain, lines: list[str]) -> None:
    chain.source.write_text("\n".join([HEADER, *lines]) + "\n")


def run(chain: FeatureChain) -> FeatureOutcome:
    outcome = chain.run()
    assert outcome.failures == {}
    assert all(check.passed for check in outcome.checks.values()), outcome.checks
    return outcome


def changes(outcome: FeatureOutcome) -> tuple[int, int]:
    made = outcome.metadata[ONLINE]
    return made["rows_written"].value, made["rows_deleted"].value
