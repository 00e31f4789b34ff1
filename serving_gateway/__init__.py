"""The serving sidecar: routes, proves and switches what NVIDIA Triton serves."""
