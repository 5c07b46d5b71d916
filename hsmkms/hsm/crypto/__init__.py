"""Cryptographic operations, one kind to a module."""
