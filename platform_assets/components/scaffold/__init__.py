"""Create a model file from a table by inference, with a reason for each part."""
