"""Which features of a version's rows are stored, and which come with each request: pure."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from serving_gateway.contract import Signature


class RowLayout:
    """The features of a signature by where their values come from.

    `names` are in the order of a row, and so are `stored` and `requested`, the parts of it.
    `ValueError` where a request feature is not a feature.
    """

    def __init__(self, signature: Signature) -> None:
        self.names = tuple([feature.name for feature in signature.features])
        self.known, self.required = frozenset(self.names), frozenset(signature.request)
        if unknown := self.required - self.known:
            raise ValueError(f"request feature {min(unknown)!r} is not among the features")
        self.requested = tuple([name for name in self.names if name in self.required])
        self.stored = tuple([name for name in self.names if name not in self.required])
        self.positions = {name: at for at, name in enumerate(self.stored)}
        """Of the stored features among them."""
        places = {name: at for at, name in enumerate((*self.stored, *self.requested))}
        order = [places[name] for name in self.names]
        self._arrange = None if order == sorted(order) else itemgetter(*order)

    def row(self, stored: list[Any], sent: Mapping[str, Any]) -> list[Any]:
        """The row of these stored values and the request features among `sent`."""
        if not self.requested:
            return stored
        values = stored + [sent[name] for name in self.requested]
        return values if self._arrange is None else [*self._arrange(values)]
