"""A small model of two feature tables, in files, and what runs its first assets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from platform_assets.components.loading import read_models
from platform_assets.features.assets import feature_assets, table_assets
from platform_assets.features.checks import feature_checks
from platform_assets.model_spec import FeatureTableSpec, ModelSpec
from platform_assets.resources.feast import FeastResource
from platform_assets.resources.source import SourceResource
from tests.support.chain import Outcome, outcome_of

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

CUSTOMERS = """type: platform_assets.components.FeatureTable
attributes:
  source: {file: customers.csv}
  join_key: {column: customer_id, type: integer}
  event_timestamp: {column: seen}
  ttl: 30d
  columns:
    age: {type: integer, nullable: true}
    region: {type: text, nullable: true}
"""
SHOPS = """type: platform_assets.components.FeatureTable
attributes:
  source: {file: shops.csv}
  join_key: {column: shop_id, type: text}
  columns: {risk: {minimum: 0}}
"""
MODEL = """type: platform_assets.components.TabularModel
attributes:
  labels:
    source: {file: payments.csv}
    entities: {customer_id: payer, shop_id: null}
    event_timestamp: {column: at}
  features:
    customers: [age, region]
    shops: [risk]
  request:
    amount: {minimum: 0}
  target: {column: bad, type: boolean}
  task: binary
  candidates: [logistic_regression]
  gates: {metric_floor: 0.1}
"""


@dataclass(frozen=True)
class Tables:
    """The rows behind the files: customers by id, time, age, region; shops; payments."""

    customers: list[tuple[int, datetime, int, str]]
    shops: dict[str, float]
    payments: list[tuple[int, str, datetime, float, bool]]

    def known(self, customer: int, at: datetime) -> tuple[int | None, str | None]:
        """What was known of a customer at a time, found row by row."""
        newest: tuple[datetime, int, str] | None = None
        for one, seen, age, region in self.customers:
            is_fresh = seen <= at <= seen + timedelta(days=30)
            if one == customer and is_fresh and (newest is None or seen > newest[0]):
                newest = (seen, age, region)
        return (None, None) if newest is None else newest[1:]


def tables(payments: int = 300, seed: int = 5) -> Tables:
    """Draw rows; some customers are seen too late, or too long ago."""
    draw = random.Random(seed)
    seen: dict[tuple[int, datetime], tuple[int, str]] = {}
    for _ in range(120):
        at = BEGIN + timedelta(hours=draw.randrange(24 * 100))
        seen[draw.randrange(1, 21), at] = (draw.randrange(18, 90), draw.choice("nsew"))
    shops = {f"s{number}": round(draw.random(), 3) for number in range(6)}
    paid = []
    for _ in range(payments):
        at = BEGIN + timedelta(minutes=draw.randrange(60 * 24 * 110))
        shop = draw.choice([*shops])
        bad = draw.random() < 0.2 + shops[shop] / 2
        paid.append((draw.randrange(1, 21), shop, at, round(draw.random() * 100, 2), bad))
    customers = [(one, at, *what) for (one, at), what in seen.items()]
    return Tables(customers, shops, paid)


def write_files(folder: Path, rows: Tables) -> None:
    """Write the three files of the model, with their tables, to folders in `folder`."""
    contents = {
        "customers": (CUSTOMERS, "customers.csv", "customer_id,seen,age,region", rows.customers),
        "shops": (SHOPS, "shops.csv", "shop_id,risk", rows.shops.items()),
        "payments": (MODEL, "payments.csv", "payer,shop_id,at,amount,bad", rows.payments),
    }
    for name, (file, table, header, lines) in contents.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "defs.yaml").write_text(file)
        text = [header, *(",".join(map(_cell, line)) for line in lines)]
        (folder / name / table).write_text("\n".join(text) + "\n")


def _cell(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


@dataclass
class TableChain:
    """The models and tables of a folder, run in this process."""

    folder: Path
    feast: FeastResource
    instance: dg.DagsterInstance

    @property
    def specs(self) -> dict[str, ModelSpec | FeatureTableSpec]:
        """Models and tables by name, as their files are now."""
        models = read_models(self.folder)
        assert models.problems == ()
        found: list[ModelSpec | FeatureTableSpec] = [
            *models.tables.values(),
            *models.specs.values(),
        ]
        return {one.name: one for one in found}

    def model(self, name: str = "payments") -> ModelSpec:
        """One of the models."""
        spec = self.specs[name]
        assert isinstance(spec, ModelSpec)
        return spec

    def run(self, *names: str) -> dict[str, Outcome]:
        """Materialize the features of these models and tables, in this order (default: all)."""
        outcomes = {}
        for name in names or ("customers", "shops", "payments"):
            selection = dg.AssetSelection.groups(name)
            outcomes[name] = outcome_of(
                dg.materialize(
                    self.definitions(),
                    selection=selection,
                    resources={
                        "source": SourceResource(),
                        "feast": self.feast,
                        "io_manager": dg.FilesystemIOManager(base_dir=str(self.folder / ".values")),
                    },
                    instance=self.instance,
                    raise_on_error=False,
                )
            )
        return outcomes

    def definitions(self) -> Sequence[Any]:
        """Assets and checks of all models and tables, as far as the features."""
        found: list[Any] = []
        for spec in self.specs.values():
            if isinstance(spec, FeatureTableSpec):
                found += [*table_assets(spec), *feature_checks(spec)]
            else:
                found += feature_assets(spec)
        return found


def new_tables(folder: Path, rows: Tables | None = None) -> TableChain:
    """Write the files and return what runs them."""
    write_files(folder, rows or tables())
    feast = FeastResource(state_dir=str(folder / ".feast"))
    return TableChain(folder, feast, dg.DagsterInstance.ephemeral())
