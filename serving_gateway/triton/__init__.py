"""Triton over its HTTP API: connections, servers behind an address, wire format."""
