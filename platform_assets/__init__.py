"""The Dagster code location: from features to a model that is provably in production."""
