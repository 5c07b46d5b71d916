"""The life of backing keys: creation, rotation, expiry, destruction."""
