"""Cryptographic operations, one module per kind."""
