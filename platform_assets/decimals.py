"""Numbers as a person would write them."""

from __future__ import annotations


def shortest_decimal(value: float) -> float:
    """Return the float with the fewest digits that is `value` as FP32: 4.42 for 4.4200001."""
    import numpy as np

    return float(str(np.float32(value)))
