"""Entity features, looked up on the way to a prediction; switched off unless configured."""
