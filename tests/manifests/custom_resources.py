"""Schemas of the custom resources that are used here, from their published definitions.

Only the fields that are used, or may soon be, and none besides: a field that is missing here is
refused, so whoever needs one looks it up first. The definitions themselves are larger than all
manifests together (Argo CD: manifests/crds; Prometheus Operator: example/prometheus-operator-crd).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _fields(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


_TEXT: Final[Schema] = {"type": "string"}
_YES_OR_NO: Final[Schema] = {"type": "boolean"}
_NUMBER: Final[Schema] = {"type": "integer"}
_TEXTS: Final = _list(_TEXT)
_MAP: Final[Schema] = {"type": "object", "additionalProperties": _TEXT}
_DURATION: Final[Schema] = {
    "type": "string",
    "pattern": "^(0|([0-9]+y)?([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?)$",
}
_METADATA: Final = _fields(
    {"name": _TEXT, "namespace": _TEXT, "labels": _MAP, "annotations": _MAP}, ["name"]
)


def _resource(api_version: str, kind: str, spec: Schema) -> Schema:
    return _fields(
        {
            "apiVersion": {"const": api_version},
            "kind": {"const": kind},
            "metadata": _METADATA,
            "spec": spec,
        },
        ["apiVersion", "kind", "metadata", "spec"],
    )


_GROUP_KINDS: Final = _list(_fields({"group": _TEXT, "kind": _TEXT}, ["group", "kind"]))
_DESTINATION: Final = _fields({"name": _TEXT, "namespace": _TEXT, "server": _TEXT})
_PROJECT: Final = _fields(
    {
        "description": _TEXT,
        "sourceRepos": _TEXTS,
        "destinations": _list(_DESTINATION),
        "clusterResourceWhitelist": _GROUP_KINDS,
        "clusterResourceBlacklist": _GROUP_KINDS,
        "namespaceResourceWhitelist": _GROUP_KINDS,
        "namespaceResourceBlacklist": _GROUP_KINDS,
    }
)
_APPLICATION: Final = _fields(
    {
        "project": _TEXT,
        "destination": _DESTINATION,
        "revisionHistoryLimit": _NUMBER,
        "source": _fields({"repoURL": _TEXT, "targetRevision": _TEXT, "path": _TEXT}, ["repoURL"]),
        "syncPolicy": _fields(
            {
                "automated": _fields(
                    {"prune": _YES_OR_NO, "selfHeal": _YES_OR_NO, "allowEmpty": _YES_OR_NO}
                ),
                "syncOptions": _TEXTS,
                "retry": _fields(
                    {
                        "limit": _NUMBER,
                        "backoff": _fields(
                            {"duration": _TEXT, "factor": _NUMBER, "maxDuration": _TEXT}
                        ),
                    }
                ),
            }
        ),
    },
    ["destination", "project"],
)
_SELECTOR: Final = _fields(
    {
        "matchLabels": _MAP,
        "matchExpressions": _list(
            _fields({"key": _TEXT, "operator": _TEXT, "values": _TEXTS}, ["key", "operator"])
        ),
    }
)
_RELABELING: Final = _fields(
    {
        "action": _TEXT,
        "regex": _TEXT,
        "replacement": _TEXT,
        "separator": _TEXT,
        "sourceLabels": _TEXTS,
        "targetLabel": _TEXT,
    }
)
_POD_MONITOR: Final = _fields(
    {
        "jobLabel": _TEXT,
        "podTargetLabels": _TEXTS,
        "selector": _SELECTOR,
        "namespaceSelector": _fields({"any": _YES_OR_NO, "matchNames": _TEXTS}),
        "podMetricsEndpoints": _list(
            _fields(
                {
                    "port": _TEXT,
                    "path": _TEXT,
                    "scheme": _TEXT,
                    "interval": _DURATION,
                    "scrapeTimeout": _DURATION,
                    "honorLabels": _YES_OR_NO,
                    "relabelings": _list(_RELABELING),
                    "metricRelabelings": _list(_RELABELING),
                }
            )
        ),
    },
    ["selector"],
)
_RULE: Final = _fields(
    {
        "alert": _TEXT,
        "record": _TEXT,
        "expr": {"type": ["string", "integer"]},
        "for": _DURATION,
        "keep_firing_for": _DURATION,
        "labels": _MAP,
        "annotations": _MAP,
    },
    ["expr"],
)
_RULES: Final = _fields(
    {
        "groups": _list(
            _fields(
                {
                    "name": {"type": "string", "minLength": 1},
                    "interval": _DURATION,
                    "limit": _NUMBER,
                    "labels": _MAP,
                    "rules": _list(_RULE),
                },
                ["name"],
            )
        )
    }
)

CUSTOM: Final[Mapping[str, Schema]] = {
    f"{api_version}/{kind}": _resource(api_version, kind, spec)
    for api_version, kind, spec in (
        ("argoproj.io/v1alpha1", "AppProject", _PROJECT),
        ("argoproj.io/v1alpha1", "Application", _APPLICATION),
        ("monitoring.coreos.com/v1", "PodMonitor", _POD_MONITOR),
        ("monitoring.coreos.com/v1", "PrometheusRule", _RULES),
    )
}
"""JSON schemas by `apiVersion/Kind`."""
