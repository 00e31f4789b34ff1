"""A fitted pipeline as an ONNX graph that answers as scikit-learn does."""
