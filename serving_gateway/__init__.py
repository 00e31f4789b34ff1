"""The serving sidecar: routes, proves and switches what NVIDIA Triton serves."""

__version__ = "0.2.0"
