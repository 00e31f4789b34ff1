"""Features of entities, looked up on the way to a prediction; switched off unless configured.

`reader` is what the data plane calls, `types` what it gets; `feast_store` is the adapter.
"""
