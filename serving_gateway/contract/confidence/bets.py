"""The stakes that bounded means and paired outcomes are tested with."""

from __future__ import annotations

import math
from typing import Final

STAKES: Final = tuple(0.9 / 2**number for number in range(16))
"""Shares of the greatest stake that can never lose everything. Small ones make the bounds narrow
after many observations, great ones after few."""
_TOTAL: Final = math.fsum(math.sqrt(stake) for stake in STAKES)
LOG_WEIGHTS: Final = tuple(math.log(math.sqrt(stake) / _TOTAL) for stake in STAKES)
"""Of the mixture over stakes; greater ones weigh more, for release decisions take thousands of
observations rather than millions."""
PENALTIES: Final = tuple(-math.log1p(-stake) - stake for stake in STAKES)
"""What the square of an observation costs, per stake: Fan, Grama and Liu (2015), lemma 4.1."""
