"""Feast definitions of `best_model`: iris measurements in centimetres.

The path of the source is relative: Feast looks for it below the directory that it is run
for, which is the state directory of the stack. So two of them never share data.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

flower = Entity(
    name="flower",
    join_keys=["entity_id"],
    value_type=ValueType.INT64,
    description="One plant, measured several times.",
)

measurements = FileSource(
    name="best_model_source",
    path="data/features.parquet",
    timestamp_field="event_timestamp",
)

best_model_features = FeatureView(
    name="best_model_features",
    entities=[flower],
    # Ten years: an observation stays valid until there is a newer one.
    ttl=timedelta(days=3650),
    schema=[
        Field(name="sepal_length", dtype=Float32),
        Field(name="sepal_width", dtype=Float32),
        Field(name="petal_length", dtype=Float32),
        Field(name="petal_width", dtype=Float32),
    ],
    source=measurements,
    online=True,
)

best_model_v1 = FeatureService(
    name="best_model_v1",
    features=[best_model_features],
    description="What version 1 of the feature contract of best_model reads, in this order.",
)
