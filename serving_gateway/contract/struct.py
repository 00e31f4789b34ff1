"""The base of all bodies: msgspec does the work, and FastAPI takes them for native types."""

from __future__ import annotations

from typing import Any, Self

import msgspec

_kinds: dict[str, type] = {}


class NativeType:
    """Makes FastAPI validate, serialise and describe a struct by msgspec.

    The pipeline decodes it with msgspec alone; pydantic is imported only where FastAPI asks.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        _kinds[cls.__name__] = cls

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validate,
            ref=f"{cls.__module__}.{cls.__qualname__}",
            serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _: Any, handler: Any) -> dict[str, Any]:
        return {}  # until `fill_in`

    @classmethod
    def _validate(cls, value: Any) -> Self:
        """Take an instance, JSON or decoded JSON; a `ValueError`'s cause is msgspec's error."""
        if isinstance(value, cls):
            return value
        try:
            if isinstance(value, bytes):
                return msgspec.json.decode(value, type=cls)
            return msgspec.convert(value, cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error


class Struct(NativeType, msgspec.Struct, frozen=True):
    """A body of the API."""


def fill_in(schemas: dict[str, Any]) -> None:
    """Add what msgspec knows to the JSON schemas of an OpenAPI page, by name."""
    kinds = [_kinds[name] for name in schemas if name in _kinds]
    template = "#/components/schemas/{name}"
    schemas.update(msgspec.json.schema_components(kinds, ref_template=template)[1])
