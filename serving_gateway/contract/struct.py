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
        components = msgspec.json.schema_components((cls,), ref_template="{name}")[1]

        def resolve(node: Any) -> Any:
            if isinstance(node, list):
                return [resolve(item) for item in node]
            if not isinstance(node, dict):
                return node
            name = node.get("$ref")
            if name is None:
                return {key: resolve(value) for key, value in node.items()}
            kind = _kinds.get(name)  # an enumeration is written out where it stands
            return resolve(components[name]) if kind is None else schema_of(kind, handler)

        return dict(resolve(components[cls.__name__]))

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


def schema_of(kind: type, handler: Any) -> dict[str, Any]:
    """A reference to the JSON schema of a type, which is registered with pydantic's generator."""
    from pydantic import TypeAdapter
    from pydantic_core import core_schema

    # The generator follows the schemas inside the one that it is given.
    around = handler(core_schema.list_schema(TypeAdapter(kind).core_schema))
    return dict(around["items"])
