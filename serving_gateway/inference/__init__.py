"""The request path: routing, batching, encoding, mirroring. No HTTP; no I/O except to Triton."""
