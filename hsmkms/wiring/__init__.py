"""Build a `Kms` from settings: the only package that combines store, device and service."""
