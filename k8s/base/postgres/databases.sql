-- Once, on an empty volume. The first database, dagster, is made by POSTGRES_DB. Dagster and MLflow
-- each keep their schema's revision in a table of the same name, so they cannot share one.
CREATE DATABASE mlflow;
