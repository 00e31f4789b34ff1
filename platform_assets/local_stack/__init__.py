"""The embedded stack of one machine: the real Triton, MLflow, gateway and Dagster."""
