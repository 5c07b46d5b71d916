"""Probing of the actual abilities of a token."""
