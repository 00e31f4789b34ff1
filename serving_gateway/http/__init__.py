"""HTTP around the use cases: thin, and the only place that knows HTTP."""
