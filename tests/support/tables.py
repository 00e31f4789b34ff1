"""Tables as people have them, each with a quirk that a model file has to cope with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import vega_datasets

Make = Callable[[Path], tuple[Path, str]]
"""Writes a table into a folder, and returns its path and the column to predict."""

_VEGA: Final = Path(vega_datasets.__file__).parent / "_data"


def patients(folder: Path) -> tuple[Path, str]:
    """Text keys, gaps, a constant column, notes of free text, leading zeros, yes and no."""
    rng = np.random.default_rng(1)
    count = 400
    age = rng.integers(18, 95, count)
    weight = np.where(rng.random(count) < 0.2, np.nan, rng.normal(78, 14, count).round(1))
    ward = rng.choice(["Köln", "北棟", "Zürich, 2. Stock", 'the "old" one', ""], count)
    risk = (age - 56) / 12 + (ward == "北棟") * 1.5 + rng.normal(0, 0.8, count)
    frame = pd.DataFrame(
        {
            "patient": [f"P-{number:04}" for number in range(count)],
            "hospital": "St. Anna",
            "age": age,
            "weight": weight,
            "ward": ward,
            "postcode": rng.choice(["01067", "01069", "10115"], count),
            "smoker": rng.choice(["true", "false"], count),
            "notes": [f"seen on day {rng.integers(1_000_000_000)}" for _ in range(count)],
            "readmitted": np.where(risk > 0.3, "yes", "no"),
        }
    )
    frame.to_csv(folder / "patients.csv", index=False)
    return folder / "patients.csv", "readmitted"


def orders(folder: Path) -> tuple[Path, str]:
    """Customers that come again, at times with an offset: a regression by time."""
    rng = np.random.default_rng(2)
    count = 600
    start = datetime.fromisoformat("2025-01-01T00:00:00+09:00")
    items, express = rng.integers(1, 20, count), rng.random(count) < 0.3
    frame = pd.DataFrame(
        {
            "customer_id": rng.integers(1000, 1100, count),
            "ordered_at": [
                (start + timedelta(minutes=int(37 * n))).isoformat() for n in range(count)
            ],
            "items": items,
            "express": express,
            "channel": rng.choice(["web", "shop", "phone"], count),
            "delivered": [
                f"{start + timedelta(days=2, minutes=int(n)):%Y-%m-%d}" for n in range(count)
            ],
            "total": (items * 7.5 + express * 12 + rng.normal(0, 6, count)).round(2),
        }
    )
    frame.to_parquet(folder / "orders.parquet", index=False)
    return folder / "orders.parquet", "total"


def loans(folder: Path) -> tuple[Path, str]:
    """A column that is known only after the target, and identifiers that look like features."""
    rng = np.random.default_rng(3)
    count = 500
    income, debt = rng.lognormal(10, 0.5, count).round(), rng.lognormal(8, 0.8, count).round()
    default = (np.log(debt / income) + rng.normal(0, 0.7, count) > -1.6).astype(int)
    frame = pd.DataFrame(
        {
            "": range(count),
            "loan_no": range(70001, 70001 + count),
            "account id": rng.permutation(10**6)[:count],
            "income": income.astype(int),
            "debt": debt.astype(int),
            "years employed": np.where(rng.random(count) < 0.1, np.nan, rng.integers(0, 30, count)),
            "recovered": np.where(default == 1, rng.uniform(100, 900, count).round(2), 0.0),
            "default": default,
        }
    )
    frame.to_csv(folder / "loans.csv", index=False, sep=";")
    return folder / "loans.csv", "default"


def sensors(folder: Path, columns: int = 2_000) -> tuple[Path, str]:
    """Two thousand columns of numbers, three classes in whole numbers."""
    rng = np.random.default_rng(4)
    count = 300
    state = rng.integers(0, 3, count)
    values = rng.normal(0, 1, (count, columns)).round(4)
    values[:, :40] += state[:, None] * 0.5
    frame = pd.DataFrame(values, columns=[f"s{number:04}" for number in range(columns)])
    frame["state"] = state
    frame.to_csv(folder / "sensors.csv", index=False)
    return folder / "sensors.csv", "state"


def korean(folder: Path) -> tuple[Path, str]:
    """Korean headers and texts; a regression of prices."""
    rng = np.random.default_rng(5)
    count = 350
    area, floor = rng.uniform(30, 160, count).round(1), rng.integers(1, 30, count)
    district = rng.choice(["강남구", "마포구", "노원구"], count)
    price = area * 900 + floor * 400 + (district == "강남구") * 40_000
    frame = pd.DataFrame(
        {
            "매물번호": [f"A{number:05}" for number in rng.permutation(count)],
            "전용면적(㎡)": area,
            "층": floor,
            "지역": district,
            "준공 연도": rng.integers(1985, 2024, count),
            "가격(만원)": (price + rng.normal(0, 6_000, count)).round(),
        }
    )
    frame.to_csv(folder / "아파트.csv", index=False)
    return folder / "아파트.csv", "가격(만원)"


def products(folder: Path) -> tuple[Path, str]:
    """Headers that no tensor may have, some of them the platform's own, and five classes."""
    rng = np.random.default_rng(6)
    count = 450
    size, weight = rng.uniform(1, 50, count).round(2), rng.lognormal(2, 0.5, count).round(3)
    kind = np.digitize(size + rng.normal(0, 3, count), [10, 20, 30, 40])
    frame = pd.DataFrame(
        {
            "SKU": [f"{number:06}" for number in range(count)],
            "label": rng.choice(["red", "blue"], count),
            "prediction of sales": weight,
            "class": size,
            "1st year": rng.integers(0, 2, count),
            "Größe": size * 2 + rng.normal(0, 1, count).round(3),
            "größe": rng.normal(0, 1, count).round(3),
            "empty": "",
            "kind of product": [f"kind {number}" for number in kind],
        }
    )
    frame.to_csv(folder / "2024 products (new).tsv", index=False, sep="\t")
    return folder / "2024 products (new).tsv", "kind of product"


def employment(_folder: Path) -> tuple[Path, str]:
    """Employment by month in the USA: a trend, few rows, nearly all columns alike."""
    return _VEGA / "us-employment.csv", "nonfarm"


def stocks(_folder: Path) -> tuple[Path, str]:
    """Prices of shares, on days that are not written as ISO 8601."""
    return _VEGA / "stocks.csv", "price"


def few_rows(folder: Path) -> tuple[Path, str]:
    """Three rows."""
    (folder / "few.csv").write_text("id,x,y\n1,2,a\n2,3,b\n3,4,a\n")
    return folder / "few.csv", "y"


def riots(_folder: Path) -> tuple[Path, str]:
    """Victims of riots, of whose gender the other columns say nothing."""
    return _VEGA / "la-riots.csv", "gender"


GOOD: Final[tuple[Make, ...]] = (
    patients,
    orders,
    loans,
    sensors,
    korean,
    products,
    employment,
    stocks,
)
