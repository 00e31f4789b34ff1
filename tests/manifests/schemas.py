"""Published schemas: Kubernetes by version, and the custom resources that are used here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jsonschema
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.manifests.custom_resources import CUSTOM
from tests.manifests.rendering import Object, named

VERSIONS: Final = ("1.34", "1.37")
"""The one before those that Kubernetes supports, and the newest: what both take, others do."""


@cache
def _registry(version: str) -> Registry[Any]:
    definitions = utils.schema_contents(f"{_folder(version)}/_definitions.json", version)
    return Resource.from_contents(definitions) @ Registry()


@cache
def _validator(version: str, kind: str, api_version: str) -> jsonschema.protocols.Validator:
    custom = CUSTOM.get(f"{api_version}/{kind}")
    if custom is not None:
        return jsonschema.Draft202012Validator(custom)
    # As kubernetes-validate names its files: rbac.authorization.k8s.io/v1 becomes rbac-v1.
    api = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    path = f"{_folder(version)}/{kind.lower()}-{api}.json"
    if not files("kubernetes_validate").joinpath(path).is_file():
        raise LookupError(f"Kubernetes {version} knows no {kind} of {api_version}")
    schema = utils.schema_contents(path, version)
    return jsonschema.Draft202012Validator(
        schema, registry=Resource.from_contents(schema) @ _registry(version)
    )


def _folder(version: str) -> str:
    return f"kubernetes-json-schema/v{version}.0-local-strict"


def problems(objects: Iterable[Object], version: str) -> Iterator[str]:
    """Yield what the schemas of a Kubernetes version refuse, unknown fields included."""
    for one in objects:
        try:
            validator = _validator(version, one["kind"], one["apiVersion"])
        except LookupError as unknown:
            yield f"{named(one)}: {unknown}"
            continue
        for error in validator.iter_errors(one):
            path = ".".join(map(str, error.absolute_path))
            yield f"{named(one)}: {version}: {path}: {error.message[:300]}"
