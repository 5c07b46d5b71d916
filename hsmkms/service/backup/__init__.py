"""Backups: making, proving, opening and restoring them."""
