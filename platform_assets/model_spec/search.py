"""How parameters are searched for, in addition to grids."""

from __future__ import annotations

import sys
from typing import Annotated, Self

from pydantic import Field, PlainValidator, StrictBool, StrictFloat, StrictInt, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticKnownError

from platform_assets.model_spec.fields import CONFIG, reject


def _number(value: object) -> float:
    """Accept an int or a float unchanged: a union would appear as two fields in messages."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PydanticKnownError("float_type")
    if not -sys.float_info.max <= value <= sys.float_info.max:  # integers may exceed it
        raise PydanticKnownError("finite_number")
    return value


Number = Annotated[float, PlainValidator(_number, json_schema_input_type=float)]


@dataclass(frozen=True, config=CONFIG)
class Range:
    """The values that a parameter may have in the search."""

    low: Number
    """The least; a range between whole numbers holds whole numbers alone."""
    high: Number
    """The largest."""
    log: StrictBool = False
    """Whether each factor counts alike, instead of each difference."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low >= self.high:
            reject([(("low",), f"{self.low:g} is not below the high {self.high:g}")])
        if self.high - self.low > sys.float_info.max:
            reject([(("high",), f"{self.high:g} is too far from the low {self.low:g}")])
        if self.log and self.low <= 0:
            reject([(("low",), f"{self.low:g} has no logarithm: begin above 0, or remove log")])
        return self

    @property
    def whole(self) -> bool:
        """Whether the range only holds integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True, config=CONFIG)
class Search:
    """How long parameters are searched for."""

    trials: Annotated[StrictInt, Field(ge=1, le=1000)] = 50
    """Choices of parameters to try, after the candidates themselves."""
    minutes: Annotated[StrictFloat, Field(gt=0, le=1440)] = 10.0
    """Minutes after which no trial begins, and the one in progress ends with its fold. How many fit
    in depends on the machine: for the same model each time, limit the trials."""
