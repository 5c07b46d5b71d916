"""Backups: creation, proof of origin, decryption and restore."""
