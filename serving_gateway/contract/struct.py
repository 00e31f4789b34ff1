"""The base of all bodies: msgspec does the work, and FastAPI takes them for native types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import msgspec

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


class NativeType:
    """Makes FastAPI validate, serialise and describe a struct by msgspec.

    The pipeline decodes it with msgspec alone; pydantic is imported only where FastAPI asks.
    """

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validate,
            ref=f"{cls.__module__}.{cls.__qualname__}",
            serialization=core_schema.plain_serializer_function_ser_schema(msgspec.to_builtins),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        components = msgspec.json.schema_components((cls,), ref_template="{name}")[1]
        kinds = {kind.__name__: kind for kind in _subclasses(NativeType)}

        def resolve(node: Any) -> Any:
            if isinstance(node, list):
                return [resolve(item) for item in node]
            if not isinstance(node, dict):
                return node
            name = node.get("$ref")
            if name is None:
                return {key: resolve(value) for key, value in node.items()}
            kind = kinds.get(name)  # an enumeration is written out where it stands
            return resolve(components[name]) if kind is None else schema_of(kind, handler)

        return dict(resolve(components[cls.__name__]))

    @classmethod
    def _validate(cls, value: Any) -> Self:
        """Take an instance, the bytes of its JSON, or what JSON was decoded to.

        Raises:
            ValueError: it is not one; the cause is msgspec's error, which names the field.
        """
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


def schema_of(kind: type, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """A reference to the JSON schema of a type, which is registered with the generator."""
    from pydantic import TypeAdapter
    from pydantic_core import core_schema

    # The generator follows the schemas inside the one that it is given.
    around = handler(core_schema.list_schema(TypeAdapter(kind).core_schema))
    return dict(around["items"])


def _subclasses(kind: type) -> Iterator[type]:
    below: type
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)
