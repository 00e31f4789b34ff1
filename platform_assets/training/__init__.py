"""From features to a registered model version."""
