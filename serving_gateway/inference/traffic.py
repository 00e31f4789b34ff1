"""Which variant answers a client: pure, deterministic and sticky.

Every client id has one of 10,000 buckets. With h = int(sha256(client_id).hexdigest(), 16), the
bucket is (h % 100) * 100 + h // 100 % 100. So for a whole percent p, `bucket < 100 * p` is the
same as the documented rule `h % 100 < p`, and any ramp keeps the ids of the smaller share.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from serving_gateway.contract import Strategy, Traffic
from serving_gateway.inference.coerce import invalid_value

BUCKETS: Final = 10_000
A: Final = "A"
B: Final = "B"
_MAX_CLIENT_ID: Final = 256
"""In characters."""


def check_client_id(client_id: str | None, field: str) -> None:
    """Refuse (`InvalidInput`) a very long id: the prediction log remembers many of them."""
    if client_id is not None and len(client_id) > _MAX_CLIENT_ID:
        what = f"has {len(client_id)} characters; at most {_MAX_CLIENT_ID} are taken."
        raise invalid_value(field, what, code="too_long")


def bucket(client_id: str, salt: str | None = None) -> int:
    """Bucket of a client, 0 to 9,999; those of each salt are independent of all others."""
    text = client_id if salt is None else f"{len(salt)}:{salt}:{client_id}"
    low = int.from_bytes(sha256(text.encode()).digest(), "big") % BUCKETS
    fine, coarse = divmod(low, 100)
    return coarse * 100 + fine


def threshold(percent: float) -> int:
    """How many buckets a share of `percent` (0-100, steps of 0.01) covers."""
    return round(percent * 100)


class TrafficPolicy:
    """The traffic policy of one generation, ready for many clients."""

    __slots__ = ("mirror", "salt", "split", "threshold")

    def __init__(self, traffic: Traffic) -> None:
        self.threshold = threshold(traffic.percent)
        self.salt = traffic.salt
        active = self.threshold > 0
        self.split = active and traffic.strategy is Strategy.SPLIT
        self.mirror = active and traffic.strategy is Strategy.MIRROR

    def _is_chosen(self, client_id: str | None) -> bool:
        return client_id is not None and bucket(client_id, self.salt) < self.threshold

    def choose_variant(self, client_id: str | None) -> str:
        """The variant that answers: without a client id always A."""
        return B if self.split and self._is_chosen(client_id) else A

    def is_mirrored(self, client_id: str | None) -> bool:
        """Whether B gets a copy. At 100 % that holds for requests without a client id too."""
        return self.mirror and (self.threshold >= BUCKETS or self._is_chosen(client_id))
