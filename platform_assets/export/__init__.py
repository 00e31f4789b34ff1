"""From a registered version to an entry of the Triton model repository."""
