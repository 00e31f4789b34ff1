"""The environment of a container, worked out as Kubernetes does it; pure.

podman 4.3 lets a whole ConfigMap override single variables and expands no `$(NAME)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

Object = Mapping[str, Any]

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class UntranslatableError(Exception):
    """The manifests hold something that podman could not play faithfully."""


def variables(
    container: Object,
    *,
    secrets: Mapping[str, Mapping[str, str]],
    config: Mapping[str, Object],
) -> tuple[list[Object], dict[str, str]]:
    """Return the list `env` that says everything, and all values by name.

    Args:
        container: as rendered.
        secrets: values of each secret by key.
        config: the ConfigMaps by name.

    Raises:
        UntranslatableError: a value comes from where nobody puts it.
    """
    own = container.get("env", [])
    known = dict(_of_config_maps(container, secrets, config))
    overridden = {entry["name"] for entry in own}
    entries: list[Object] = [
        {"name": name, "value": value} for name, value in known.items() if name not in overridden
    ]
    for entry in own:
        if "valueFrom" in entry:
            known[entry["name"]] = _secret(container["name"], entry["valueFrom"], secrets)
            entries.append(entry)
        else:
            known[entry["name"]] = expanded(str(entry.get("value", "")), known)
            entries.append({"name": entry["name"], "value": known[entry["name"]]})
    return entries, known


def expanded(text: str, known: Mapping[str, str]) -> str:
    """Put values in: `$$` is `$`, and a name that is not known stays as it stands."""

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return known.get(found[1], found[0])

    return _REFERENCE.sub(value, text)


def config_maps_read(containers: Sequence[Object]) -> set[str]:
    """Names of the ConfigMaps that containers read all of."""
    return {
        source["configMapRef"]["name"]
        for container in containers
        for source in container.get("envFrom", [])
        if "configMapRef" in source
    }


def _of_config_maps(
    container: Object, secrets: Mapping[str, object], config: Mapping[str, Object]
) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", []):
        secret = source.get("secretRef")
        if secret is None:
            yield from config[source["configMapRef"]["name"]].get("data", {}).items()
        # An optional one may be absent, and is.
        elif secret["name"] in secrets or not secret.get("optional", False):
            raise UntranslatableError(
                f"{container['name']} reads all of the secret {secret['name']!r}: name its keys"
            )


def _secret(container: str, source: Object, secrets: Mapping[str, Mapping[str, str]]) -> str:
    reference = source.get("secretKeyRef")
    if reference is None:
        raise UntranslatableError(f"{container} takes a variable from {', '.join(source)}")
    try:
        return secrets[reference["name"]][reference["key"]]
    except KeyError as error:
        raise UntranslatableError(
            f"{container} reads {reference['key']!r} of the secret {reference['name']!r}, which "
            "nobody makes"
        ) from error
