"""The routing record that replicas share: where it is kept, how they follow it."""
