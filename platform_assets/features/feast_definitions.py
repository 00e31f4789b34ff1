"""Feast's objects of one model, made from its specification."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from platform_assets.features.storage import FEATURES_FILE
from platform_assets.model_spec import ModelSpec
from platform_assets.resources.feast import MODEL_TAG, VALUE_TYPES
from serving_gateway.contract import import_feast


def feast_definitions(spec: ModelSpec, data_dir: Path) -> list[Any]:
    """Return entity, source, view and service, which is to say what the model reads.

    The data stands below `data_dir`, of which two stacks have one each. Its whole path is
    registered, for Feast would look for a part of one below the directory of the process.

    View and service are named after the contract of the features, so that what an older
    version reads stays as it is beside them.
    """
    import_feast()
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import from_value_type

    types = {dtype: ValueType[name] for dtype, name in VALUE_TYPES.items()}
    key = spec.join_key
    columns = [(key.name, key.dtype), *((one.name, one.dtype) for one in spec.features)]
    entity = Entity(
        # With the type in its name: a key that changes it is another entity, and the views
        # that know the old one go on.
        name=f"{spec.model_name}_{key.name}_{key.dtype.value.lower()}",
        join_keys=[key.name],
        value_type=types[key.dtype],
        description=f"The entity of a row of {spec.model_name}.",
    )
    source = FileSource(
        name=f"{spec.feature_view}_source",
        path=str(data_dir.absolute() / spec.model_name / FEATURES_FILE),
        timestamp_field=spec.event_timestamp,
    )
    view = FeatureView(
        name=spec.feature_view,
        entities=[entity],
        # Without times nothing is known of ages, and nothing expires.
        ttl=timedelta(0) if spec.event_time is None else spec.ttl,
        schema=[Field(name=name, dtype=from_value_type(types[dtype])) for name, dtype in columns],
        source=source,
        online=True,
        description=spec.description,
    )
    service = FeatureService(
        name=spec.feature_service,
        features=[view],
        description=f"The features of {spec.model_name}, in order: contract {spec.contract}.",
        tags={MODEL_TAG: spec.model_name, "feature_contract": spec.contract},
    )
    return [entity, source, view, service]
