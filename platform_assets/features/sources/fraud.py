"""An example of several tables: card transactions, some of them fraud, from a seeded generator.

`fraud.customers` and `fraud.merchants` hold what was known about each at several times,
`fraud.transactions` the payments, and whether they turned out to be fraud, known weeks later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_CUSTOMERS, _MERCHANTS, _TRANSACTIONS = 400, 80, 6_000
_SEED: Final = 20250101
_DAYS: Final = 180
_UPDATES: Final = 6
"""How often each customer's and merchant's row is updated, over all days."""
_REGIONS: Final = ("north", "south", "east", "west")
_CATEGORIES: Final = ("grocery", "travel", "electronics", "restaurant", "gaming")
_RISK: Final = np.array([0.1, 0.4, 0.6, 0.2, 0.9])
"""How risky each category is, from 0 to 1."""


def fraud_tables() -> dict[str, Callable[[int], pd.DataFrame]]:
    """Return the function that generates each table, by its name; it takes the scale, from 1."""
    return {"customers": _customers, "merchants": _merchants, "transactions": _transactions}


def _customers(scale: int) -> pd.DataFrame:
    import pandas as pd

    count, random = _CUSTOMERS * scale, np.random.default_rng(_SEED)
    usual = random.lognormal(3.3, 0.6, count)
    spent = [usual * random.lognormal(0, 0.2, count) for _ in range(_UPDATES)]
    return pd.DataFrame(
        {
            "customer_id": np.tile(np.arange(1, count + 1), _UPDATES),
            "updated": _update_times(count),
            "region": np.tile(np.array(_REGIONS)[random.integers(0, 4, count)], _UPDATES),
            "account_days": np.concatenate(
                [random.integers(30, 3_000, count) + _update_day(n) for n in range(_UPDATES)]
            ),
            "usual_amount": np.concatenate(spent).round(2),
        }
    )


def _merchants(scale: int) -> pd.DataFrame:
    import pandas as pd

    count, random = _MERCHANTS * scale, np.random.default_rng(_SEED + 1)
    category = random.integers(0, len(_CATEGORIES), count)
    rates = [_RISK[category] * random.beta(2, 20, count) for _ in range(_UPDATES)]
    refunds = np.concatenate(rates)
    # Not measured yet.
    refunds[random.random(len(refunds)) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "merchant_id": [f"m{number:05}" for number in range(1, count + 1)] * _UPDATES,
            "updated": _update_times(count),
            "category": np.tile(np.array(_CATEGORIES)[category], _UPDATES),
            "refund_rate": refunds.round(4),
        }
    )


def _transactions(scale: int) -> pd.DataFrame:
    import pandas as pd

    count, random = _TRANSACTIONS * scale, np.random.default_rng(_SEED + 2)
    minutes = np.sort(random.integers(24 * 60, _DAYS * 24 * 60, count))
    time = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(minutes, unit="min")
    customer = random.integers(1, _CUSTOMERS * scale + 1, count)
    merchant = random.integers(1, _MERCHANTS * scale + 1, count)
    usual = _customers(scale)["usual_amount"].to_numpy()[customer - 1]
    amount = usual * random.lognormal(0, 0.9, count)
    hour = np.asarray(time.hour)
    fraud = _is_fraud(amount / usual, hour, merchant, scale, random)
    return pd.DataFrame(
        {
            "transaction_id": np.arange(1, count + 1),
            "customer_id": customer,
            "merchant_id": [f"m{number:05}" for number in merchant],
            "time": time,
            "amount": amount.round(2),
            "hour": hour,
            "is_fraud": fraud,
        }
    )


def _is_fraud(
    ratio: NDArray[Any], hour: NDArray[Any], merchant: NDArray[Any], scale: int, random: Any
) -> NDArray[np.bool_]:
    """Draw the truth: fraud is likelier for large amounts, at night, at risky merchants."""
    category = _merchants(scale)["category"].to_numpy()[merchant - 1]
    risk = _RISK[[_CATEGORIES.index(name) for name in category]]
    score = -6.5 + 2.2 * np.log(ratio) + 2.5 * risk + 1.8 * ((hour < 5) | (hour > 22))
    drawn: NDArray[np.bool_] = random.random(len(ratio)) < 1 / (1 + np.exp(-score))
    return drawn


def _update_day(number: int) -> int:
    return number * _DAYS // _UPDATES


def _update_times(count: int) -> Any:
    import pandas as pd

    days = np.repeat([_update_day(number) for number in range(_UPDATES)], count)
    return pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(days, unit="D")
